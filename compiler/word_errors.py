"""Error rates as Whisper's paper counts them: normalised text, all clips together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from mwc.runtime.words import LANGUAGES_WITHOUT_SPACES


@dataclass(frozen=True)
class WordErrors:
    """Errors of an engine over a set of clips; `rate` is all of them over all reference words.

    In a language without spaces a character counts as a word.
    """

    words: int
    substitutions: int
    deletions: int
    insertions: int

    @property
    def rate(self) -> float:
        """Errors per reference word."""
        return (self.substitutions + self.deletions + self.insertions) / self.words


def word_errors(
    references: Sequence[str], texts: Sequence[str], language: str = "en"
) -> WordErrors:
    """Count the errors of texts of one language against their references.

    Both are normalised by whisper-normalizer, which is openai/whisper's
    `whisper/normalizers/english.py` for English and `basic.py` for other languages; jiwer aligns
    them.
    """
    import jiwer

    normalize = normaliser(language)
    found = jiwer.process_words([normalize(r) for r in references], [normalize(t) for t in texts])
    return WordErrors(
        words=found.hits + found.substitutions + found.deletions,
        substitutions=found.substitutions,
        deletions=found.deletions,
        insertions=found.insertions,
    )


@cache
def normaliser(language: str) -> Callable[[str], str]:
    """What makes texts comparable; without spaces between words it sets one after each letter."""
    if language == "en":
        from whisper_normalizer.english import EnglishTextNormalizer

        english: Callable[[str], str] = EnglishTextNormalizer()
        return english
    from whisper_normalizer.basic import BasicTextNormalizer

    basic: Callable[[str], str] = BasicTextNormalizer(
        split_letters=language in LANGUAGES_WITHOUT_SPACES
    )
    return basic

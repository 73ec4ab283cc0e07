"""Word error rates as Whisper's paper counts them: normalised text, all clips together."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class WordErrors:
    """Errors of an engine over a set of clips; `rate` is all of them over all reference words."""

    words: int
    substitutions: int
    deletions: int
    insertions: int

    @property
    def rate(self) -> float:
        """Errors per reference word."""
        return (self.substitutions + self.deletions + self.insertions) / self.words


def word_errors(references: Sequence[str], texts: Sequence[str]) -> WordErrors:
    """Count the errors of English texts against their references.

    Both are normalised by whisper-normalizer's EnglishTextNormalizer, which is openai/whisper's
    `whisper/normalizers/english.py`; jiwer aligns them.
    """
    import jiwer
    from whisper_normalizer.english import EnglishTextNormalizer

    normalize = EnglishTextNormalizer()
    found = jiwer.process_words([normalize(r) for r in references], [normalize(t) for t in texts])
    return WordErrors(
        words=found.hits + found.substitutions + found.deletions,
        substitutions=found.substitutions,
        deletions=found.deletions,
        insertions=found.insertions,
    )

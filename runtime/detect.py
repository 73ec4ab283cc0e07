"""Which language is spoken in encoded windows.

Algorithm: openai/whisper `whisper/decoding.py`, `detect_language`: one step at sot.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from mwc.runtime.decoder import Decoder, PrefillRow
from mwc.runtime.errors import OptionError
from mwc.runtime.rules import rule_state


@dataclass(frozen=True)
class DetectedLanguage:
    """The language of a file or a window.

    Attributes:
        language: the likeliest code, of those allowed.
        probability: its probability among the model's languages.
        probabilities: of every language, by code.
    """

    language: str
    probability: float
    probabilities: dict[str, float]


def detect_languages(
    decoder: Decoder, slots: Sequence[tuple[int, int]], allowed: Collection[str] | None = None
) -> list[DetectedLanguage]:
    """Tell the language of each window.

    Args:
        decoder: the model.
        slots: per window its slot, encoded, and a row slot that is free.
        allowed: codes that may be found; None for all of the model's.

    Raises:
        OptionError: the model knows English only.
    """
    spec = decoder.spec
    if not spec.tokens.is_multilingual:
        raise OptionError("this model knows English only; it cannot detect a language.")
    state = rule_state((), False, spec.tokens, None)
    rows = [PrefillRow((spec.tokens.sot,), row, window, 0, state) for window, row in slots]
    open_mask = np.zeros((2, spec.model.n_vocab), dtype=np.float32)
    codes = [code for code, _ in spec.tokens.languages]
    found = []
    for values in decoder.prefill(rows, open_mask).language_probs.tolist():
        probabilities = dict(zip(codes, values, strict=True))
        choices = [code for code in codes if allowed is None or code in allowed]
        language = max(choices, key=lambda code: probabilities[code])
        found.append(DetectedLanguage(language, probabilities[language], probabilities))
    return found

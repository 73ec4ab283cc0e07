"""What a window's rows start from: the text before it, hints, the sot sequence, a prefix.

Algorithm: openai/whisper `whisper/decoding.py`, `DecodingTask._get_initial_tokens`; hotwords as in
SYSTRAN/faster-whisper `faster_whisper/transcribe.py`, `WhisperModel.get_prompt`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mwc.runtime.errors import OptionError
from mwc.runtime.options import TranscribeOptions
from mwc.runtime.spec import WhisperSpec
from mwc.runtime.tokenizer import Tokenizer

SHOWN = 40
"""Characters of a text that a note quotes."""


@dataclass(frozen=True)
class Prompt:
    """What a row starts from: all tokens before the first sampled one, and where sot stands."""

    tokens: tuple[int, ...]
    sot_index: int


def make_prompt(
    spec: WhisperSpec,
    tokenizer: Tokenizer,
    options: TranscribeOptions,
    language: str,
    previous: Sequence[int] = (),
) -> Prompt:
    """Put a window's prompt together: hotwords, previous text, sot sequence, prefix.

    Args:
        spec: the model.
        tokenizer: its tokenizer.
        options: task, timestamps, hotwords, prefix and sample_len count.
        language: a code of the model's languages; without meaning for an English-only model.
        previous: tokens of the text before the window; together with the hotwords the last
            n_text_ctx / 2 - 1 are used.

    Raises:
        OptionError: the prefix is too long, or a text holds a special token.
    """
    half = spec.model.n_text_ctx // 2
    sequence = tokenizer.sot_sequence(language, options.task, not options.without_timestamps)
    prefix: list[int] = []
    if options.prefix:
        prefix = tokenizer.encode(" " + options.prefix.strip())
        room = _prefix_room(spec, options)
        prefix = prefix[-room:] if room > 0 else prefix
        if len(prefix) > half - len(sequence):
            raise OptionError(
                f"prefix is {len(prefix)} tokens long; the prompt has room for "
                f"{half - len(sequence)}, shorten it."
            )
    hints = hint_tokens(spec, tokenizer, options)
    room = half - 1 - len(hints)
    text = [*hints, *(previous[-room:] if room else ())]
    before = [spec.tokens.sot_prev, *text] if text else []
    return Prompt(tokens=(*before, *sequence, *prefix), sot_index=len(before))


def hint_tokens(spec: WhisperSpec, tokenizer: Tokenizer, options: TranscribeOptions) -> list[int]:
    """The hotwords, which stand first in the prompt, as far as there is room for them."""
    return _encode(tokenizer, options.hotwords)[: spec.model.n_text_ctx // 2 - 1]


def prompt_notes(
    spec: WhisperSpec, tokenizer: Tokenizer, options: TranscribeOptions
) -> tuple[str, ...]:
    """Tell which of the given texts are too long for the prompt, and what is cut off them."""
    left = _prefix_room(spec, options)
    prefix = tokenizer.encode(" " + options.prefix.strip()) if options.prefix else []
    room = spec.model.n_text_ctx // 2 - 1
    hints = _encode(tokenizer, options.hotwords)
    initial = _encode(tokenizer, options.initial_prompt)
    notes = []
    if len(hints) > room:
        notes.append(_cut_note(tokenizer, "hotwords", hints, room, hints[room:]))
    room -= min(len(hints), room)
    if len(initial) > room:
        cut = initial[: len(initial) - room]
        notes.append(_cut_note(tokenizer, "initial_prompt", initial, room, cut))
    if 0 < left < len(prefix):
        notes.append(_cut_note(tokenizer, "prefix", prefix, left, prefix[:-left]))
    return tuple(notes)


def _prefix_room(spec: WhisperSpec, options: TranscribeOptions) -> int:
    """Tokens that a prefix may have beside `sample_len`; none are cut where this is 0 or less.

    As in openai/whisper, a prefix gives way to a sample_len below half the context; with one above
    half of it openai/whisper drops the prefix's beginning, or all of it.
    """
    half = spec.model.n_text_ctx // 2
    return half - (options.sample_len or half)


def _cut_note(
    tokenizer: Tokenizer, name: str, tokens: Sequence[int], room: int, cut: Sequence[int]
) -> str:
    text = tokenizer.decode(cut).strip()
    shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
    where = "end" if name == "hotwords" else "beginning"
    return (
        f"{name} is {len(tokens)} tokens long and the prompt has room for {room}: its {where}, "
        f"{len(cut)} tokens, is cut off ({shown!r}); shorten it"
    )


def _encode(tokenizer: Tokenizer, text: str | None) -> list[int]:
    """The tokens of a text before the transcript; none where there is no text."""
    return tokenizer.encode(" " + text.strip()) if text and text.strip() else []

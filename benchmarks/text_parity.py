"""Why a text differs from openai-whisper's, where it does: other samples, or a near tie.

Both engines decode a file themselves: openai-whisper with the ffmpeg command, mwc with the
libraries behind it. So openai-whisper is first given the samples that mwc decoded. If its text is
then mwc's, the samples were the cause. If not, the first token that differs on the same samples is
looked at: how far openai-whisper was, in logits after its own filters, from choosing mwc's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from engines import OpenaiWhisper, Piece, Result
from speech_corpus import Clip
from token_parity import MARGIN

from mwc.runtime.audio import read_samples

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FirstDifference:
    """The first token in which two transcripts of the same samples differ.

    Attributes:
        seek: frame at which its window starts.
        position: index among the window's tokens.
        ours: mwc's token, as text.
        theirs: openai-whisper's.
        margin: how much more openai-whisper thinks of its own, in logits after its filters.
    """

    seek: int
    position: int
    ours: str
    theirs: str
    margin: float


@dataclass(frozen=True)
class TextDifference:
    """A file whose text differs.

    Attributes:
        clip: its name in the corpus.
        timestamps: whether it was decoded with them.
        ours: mwc's text.
        theirs: openai-whisper's.
        cause: "samples": the same text once openai-whisper gets mwc's samples; "margin": the
            first differing token is a near tie, below MARGIN; else "unexplained".
        samples: the largest difference between the two decodings of the file, full scale 1.0;
            None if they differ in length.
        lengths: samples in mwc's decoding and in openai-whisper's.
        first: the first token that differs on the same samples; None where none does.
    """

    clip: str
    timestamps: bool
    ours: str
    theirs: str
    cause: str
    samples: float | None
    lengths: tuple[int, int]
    first: FirstDifference | None


def explain(
    clip: Clip, timestamps: bool, ours: Result, theirs: Result, openai: OpenaiWhisper
) -> TextDifference:
    """Find out why two texts of a file differ."""
    decoded = read_samples(clip.path)
    other = their_samples(clip.path)
    same_length = len(decoded) == len(other)
    same = openai.transcribe(decoded, clip.language, timestamps)
    first = None
    if same.text != ours.text:
        first = first_difference(openai.model, decoded, ours, same, clip.language, timestamps)
    return TextDifference(
        clip=clip.name,
        timestamps=timestamps,
        ours=ours.text,
        theirs=theirs.text,
        cause=cause_of(same.text == ours.text, first),
        samples=float(np.abs(decoded - other).max(initial=0.0)) if same_length else None,
        lengths=(len(decoded), len(other)),
        first=first,
    )


def cause_of(same_text: bool, first: FirstDifference | None) -> str:
    """Name the cause; `same_text` and `first` are of the same samples."""
    if same_text:
        return "samples"
    return "margin" if first is not None and abs(first.margin) < MARGIN else "unexplained"


def their_samples(path: Path) -> Float32:
    """A file as openai-whisper decodes it."""
    import whisper

    samples: Float32 = whisper.load_audio(str(path))
    return samples


def first_difference(
    model: Any, samples: Float32, ours: Result, theirs: Result, language: str, timestamps: bool
) -> FirstDifference | None:
    """The first token that differs, and openai-whisper's margin there; None if no token does."""
    history: list[int] = []
    for seek, mine, other in by_window(ours.pieces, theirs.pieces):
        if mine != other:
            position = agreeing(mine, other)
            return measure(
                model, samples, seek, history, mine, other, position, language, timestamps
            )
        history += mine
    return None


def by_window(
    ours: Sequence[Piece], theirs: Sequence[Piece]
) -> list[tuple[int, list[int], list[int]]]:
    """Both engines' tokens, window by window in the order of time."""
    seeks = sorted({piece.seek for piece in (*ours, *theirs)})
    return [
        (
            seek,
            [token for piece in ours if piece.seek == seek for token in piece.tokens],
            [token for piece in theirs if piece.seek == seek for token in piece.tokens],
        )
        for seek in seeks
    ]


def agreeing(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens are the same from the start."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def measure(
    model: Any,
    samples: Float32,
    seek: int,
    history: list[int],
    ours: list[int],
    theirs: list[int],
    position: int,
    language: str,
    timestamps: bool,
) -> FirstDifference:
    """Run openai-whisper's decoder and its filters up to a position of a window."""
    import torch
    from whisper.audio import N_FRAMES, N_SAMPLES, log_mel_spectrogram, pad_or_trim
    from whisper.decoding import DecodingOptions, DecodingTask

    options = DecodingOptions(
        language=language,
        without_timestamps=not timestamps,
        prompt=history or None,
        fp16=False,
    )
    task = DecodingTask(model, options)
    mel = log_mel_spectrogram(samples, model.dims.n_mels, padding=N_SAMPLES)
    content = mel.shape[-1] - N_FRAMES
    window = pad_or_trim(mel[:, seek : min(seek + N_FRAMES, content)], N_FRAMES)
    tokens = torch.tensor([[*task.initial_tokens, *theirs[:position]]])
    with torch.inference_mode():
        logits = model.logits(tokens, model.embed_audio(window[None]))[:, -1]
    for logit_filter in task.logit_filters:
        logit_filter.apply(logits, tokens)
    eot = task.tokenizer.eot
    mine = ours[position] if position < len(ours) else eot
    other = theirs[position] if position < len(theirs) else eot
    return FirstDifference(
        seek=seek,
        position=position,
        ours=task.tokenizer.decode_with_timestamps([mine]),
        theirs=task.tokenizer.decode_with_timestamps([other]),
        margin=float(logits[0, other] - logits[0, mine]),
    )

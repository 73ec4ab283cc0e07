"""Whether mwc samples the tokens that transformers would, given the same features and prompt.

mwc's own log-mel goes into transformers' encoder, so that only the network and the choice of tokens
are compared. Two comparisons: `check_window` feeds mwc's tokens to transformers' decoder and asks,
at every position, what it would have chosen by the rules of `mwc.runtime.rules`; a difference is
listed with its margin, and the positions after it still count. `generate` lets transformers'
own `generate`, with its own logit processors, run freely.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mwc.compiler.checkpoint import Checkpoint
from mwc.compiler.parity import BOUNDS
from mwc.compiler.reference import Reference
from mwc.compiler.verify_tokens import Decoding, compare_tokens
from mwc.runtime.audio import open_audio
from mwc.runtime.decode import DecodingBatch, Task
from mwc.runtime.decoder import Choice, Decoder, PrefillResult, PrefillRow, StepBatch
from mwc.runtime.features import Features
from mwc.runtime.model import Model
from mwc.runtime.options import TranscribeOptions
from mwc.runtime.prompt import make_prompt
from mwc.runtime.rules import feed
from mwc.runtime.sampling import Sampling, sampling_for
from mwc.runtime.spec import WhisperSpec

Float32 = npt.NDArray[np.float32]

MARGIN = BOUNDS["f32"].margin
"""Logits: a different token is explained where the reference is this close to choosing ours."""


@dataclass(frozen=True)
class Window:
    """30 s of a file, as the model hears it.

    Attributes:
        seek: frame at which it starts.
        n_frames: frames with audio.
        raw: float32 [3000, n_mels], raw log10 mel, for mwc.
        log_mel_max: of the whole file.
        normalised: float32 [3000, n_mels], what the encoder sees, for a reference.
    """

    seek: int
    n_frames: int
    raw: Float32
    log_mel_max: float
    normalised: Float32


@dataclass(frozen=True)
class TokenDifference:
    """A token that the reference would have chosen differently after the same tokens.

    Attributes:
        seek: frame at which the window starts.
        position: index among the sampled tokens.
        ours: the token mwc sampled, as text.
        theirs: what the reference chooses.
        margin: how far the reference is from choosing ours, in logits.
        explained: whether that is below MARGIN.
    """

    seek: int
    position: int
    ours: str
    theirs: str
    margin: float
    explained: bool


@dataclass(frozen=True)
class WindowTokens:
    """The comparison of one window: mwc's tokens, eot included, and the differences."""

    seek: int
    tokens: tuple[int, ...]
    differences: tuple[TokenDifference, ...]


def windows(model: Model, audio: Any) -> Iterator[Window]:
    """Cut a file into windows of 30 s, one after the other.

    Normalised as openai/whisper does (`audio.py`, `log_mel_spectrogram`): not below the file's
    maximum minus 8, plus 4, over 4; frames without audio are 0 (`transcribe.py`, `pad_or_trim`).
    """
    features = Features(open_audio(audio), model.session.log_mel, model.spec.model.n_mels)
    for seek in range(0, features.n_frames, 3000):
        raw, n_frames = features.window(seek), min(features.n_frames - seek, 3000)
        normalised = (np.maximum(raw, np.float32(features.log_mel_max - 8)) + 4) / 4
        normalised[n_frames:] = 0.0
        yield Window(seek, n_frames, raw, features.log_mel_max, normalised.astype(np.float32))


class Recorder:
    """A decoder that passes everything on and remembers what was chosen for its one row."""

    def __init__(self, decoder: Decoder) -> None:
        """Start with nothing remembered."""
        self.spec, self.n_windows, self.n_rows = decoder.spec, decoder.n_windows, decoder.n_rows
        self.log_mel, self.encode, self.align = decoder.log_mel, decoder.encode, decoder.align
        self.copy_rows, self.reserve = decoder.copy_rows, decoder.reserve
        self.check_memory = decoder.check_memory
        self.first: PrefillResult | None = None
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.states: list[npt.NDArray[np.int32]] = []
        self._decoder = decoder

    def prefill(
        self, rows: Sequence[PrefillRow], suppress: Float32, n_candidates: int = 1
    ) -> PrefillResult:
        """See `Decoder.prefill`."""
        result = self.first = self._decoder.prefill(rows, suppress, n_candidates)
        self._remember(result.tokens, result.logprobs, rows[0].rule_state)
        return result

    def step(self, batch: StepBatch, suppress: Float32, n_candidates: int = 1) -> Choice:
        """See `Decoder.step`."""
        choice = self._decoder.step(batch, suppress, n_candidates)
        self._remember(choice.tokens, choice.logprobs, batch.rule_states[0])
        return choice

    def steps(self, batch: StepBatch, suppress: Float32) -> Choice:
        """See `Decoder.steps`: each step that counts is remembered until the row ends."""
        choice = self._decoder.steps(batch, suppress)
        for i in range(choice.length(0)):
            one = choice.candidates[:1, i], choice.candidate_logprobs[:1, i]
            self._remember(*one, batch.rule_states[0])
            if one[0] == self.spec.tokens.eot:
                break
            batch = feed(batch, one[0], self.spec.tokens.timestamp_begin)
        return choice

    def _remember(self, tokens: Any, logprobs: Any, state: npt.NDArray[np.int32]) -> None:
        self.tokens.append(int(tokens[0]))
        self.logprobs.append(float(logprobs[0]))
        self.states.append(state)


def decode_recorded(model: Model, window: Window, prompt: Any, sampling: Sampling) -> Decoding:
    """Let mwc decode one window, and keep every choice it made."""
    session = model.session
    session.encode(
        window.raw[None],
        np.array([window.log_mel_max], np.float32),
        np.array([window.n_frames], np.int32),
        np.zeros(1, np.int32),
    )
    recorder = Recorder(session)
    batch = DecodingBatch(recorder)
    batch.start(Task(prompt, 0), sampling, [0])
    while batch.is_busy:
        batch.advance()
    assert recorder.first is not None
    return Decoding(
        prompt=list(prompt.tokens),
        sampled=recorder.tokens,
        states=np.stack(recorder.states),
        logprobs=np.array(recorder.logprobs, np.float32),
        first=recorder.first,
    )


def check_window(
    model: Model, reference: Reference, encoder_out: Float32, window: Window, language: str,
    timestamps: bool,
) -> WindowTokens:  # fmt: skip
    """Compare one window's tokens.

    Args:
        model: mwc's.
        reference: what would have chosen.
        encoder_out: float32 [1500, d], the reference's encoder on `window.normalised`.
        window: the window.
        language: the code for the prompt.
        timestamps: whether to decode with them.
    """
    spec = model.spec
    options = TranscribeOptions(temperature=(0.0,), without_timestamps=not timestamps)
    prompt = make_prompt(spec, model.tokenizer, options, language)
    decoding = decode_recorded(model, window, prompt, sampling_for(spec, options))
    logits = reference.logits(encoder_out, [*decoding.prompt, *decoding.sampled[:-1]])
    found, _ = compare_tokens(decoding, logits, spec, timestamps, BOUNDS["f32"])
    differences = tuple(
        TokenDifference(
            seek=window.seek,
            position=difference.position,
            ours=show(model, difference.ours),
            theirs=show(model, difference.theirs),
            margin=difference.margin,
            explained=difference.margin < MARGIN,
        )
        for difference in found
    )
    return WindowTokens(window.seek, tuple(decoding.sampled), differences)


def show(model: Model, token: int) -> str:
    """A token for people."""
    if token == model.spec.tokens.eot:
        return "<|endoftext|>"
    if token >= model.spec.tokens.timestamp_begin:
        return f"<|{(token - model.spec.tokens.timestamp_begin) * 0.02:.2f}|>"
    return model.tokenizer.decode([token])


class Generator:
    """transformers' `generate` over a checkpoint's tensors."""

    def __init__(self, checkpoint: Checkpoint, spec: WhisperSpec) -> None:
        """Build transformers' model; the checkpoint's generation config counts where it has one."""
        self._model = transformers_model(checkpoint, spec)
        self._spec = spec

    def generate(self, normalised: Float32, language: str) -> list[int]:
        """Tokens of one window without timestamps, greedily; eot is left out.

        Args:
            normalised: float32 [3000, n_mels].
            language: the code for the prompt.
        """
        import torch

        tokens = self._spec.tokens
        chosen = {"language": language, "task": "transcribe"} if tokens.is_multilingual else {}
        with torch.inference_mode():
            out = self._model.generate(
                input_features=torch.from_numpy(np.ascontiguousarray(normalised.T))[None],
                return_timestamps=False,
                do_sample=False,
                num_beams=1,
                max_new_tokens=self._spec.model.n_text_ctx // 2,
                **chosen,
            )
        ids = [int(token) for token in out[0]]
        return [i for i in ids if i < tokens.eot]


def transformers_model(checkpoint: Checkpoint, spec: WhisperSpec) -> Any:
    """transformers' model of a checkpoint in float32, ready for `generate`."""
    import torch
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), spec.tokens.eot)
    start = {"decoder_start_token_id": spec.tokens.sot}
    config = WhisperConfig.from_dict({**checkpoint.config, **ends, **start})
    tensors = checkpoint.tensors
    state = {f"model.{n}": torch.from_numpy(tensors.read(n)) for n in tensors.shapes}
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    model: Any = WhisperForConditionalGeneration(config)
    model.load_state_dict(state)
    settings = {**generation_config(spec), **checkpoint.generation_config}
    model.generation_config = GenerationConfig.from_dict({**settings, **ends, **start})
    return model.eval()


def generation_config(spec: WhisperSpec) -> dict[str, Any]:
    """What transformers' `generate` needs to know, for sources that hold no generation config."""
    tokens = spec.tokens
    settings: dict[str, Any] = {
        "is_multilingual": tokens.is_multilingual,
        "no_timestamps_token_id": tokens.no_timestamps,
        "prev_sot_token_id": tokens.sot_prev,
        "max_initial_timestamp_index": tokens.max_initial_timestamp_index,
        "suppress_tokens": list(tokens.suppress_tokens),
        "begin_suppress_tokens": list(tokens.begin_suppress_tokens),
    }
    if tokens.is_multilingual:
        settings["lang_to_id"] = {f"<|{code}|>": token for code, token in tokens.languages}
        settings["task_to_id"] = {
            "transcribe": tokens.transcribe,
            "translate": tokens.translate,
        }
    return settings

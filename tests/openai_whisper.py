"""openai/whisper's own decoding and seeking over a fake model: what ours is compared with.

Only for tests that have called `pytest.importorskip("whisper")`.
"""

from types import MethodType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_decoder import FakeWindow, Logits, attention

from mwc.runtime.rules import log_softmax
from mwc.runtime.spec import WhisperSpec
from mwc.runtime.tokenizer import Tokenizer

OUR_FIELDS = ("language", "n_attempts", "repetition", "speech")
"""What a segment of ours has beyond openai/whisper's fields."""


class FakeInference:
    """Stands for openai/whisper's decoder network: logits at the positions that it reads."""

    def __init__(self, model: Any, n_prompt: int) -> None:
        self.window: FakeWindow = model.window
        self.function: Logits = model.logits
        self.n_prompt = n_prompt

    def logits(self, tokens: Any, audio_features: Any) -> Any:
        import torch

        last = tokens.shape[1]
        rows = []
        for row in tokens.tolist():
            positions = range(last) if last == self.n_prompt else [last - 1]
            rows.append([self.function(self.window, tuple(row[: p + 1])) for p in positions])
        return torch.from_numpy(np.array(rows))

    def rearrange_kv_cache(self, source_indices: Any) -> None:
        pass  # nothing is kept between steps

    def cleanup_caching(self) -> None:
        pass


class FakeCategorical:
    """Stands for torch's `Categorical`: draws with the numbers that ours are drawn with.

    It is called as the class is, with the logits of all rows; `start` begins a window.
    """

    def start(self, seed: int, seek: int, temperature: float) -> None:
        self._stream = (seed, seek, round(100 * temperature))
        self._generators: list[np.random.Generator] = []

    def __call__(self, logits: Any) -> "FakeCategorical":
        self._logits = logits.numpy().astype(np.float64)
        if not self._generators:
            rows = range(len(self._logits))
            self._generators = [np.random.default_rng([*self._stream, i]) for i in rows]
        return self

    def sample(self) -> Any:
        import torch

        running = np.cumsum(np.exp(self._logits - self._logits.max(1, keepdims=True)), axis=1)
        drawn = [generator.random(dtype=np.float32) for generator in self._generators]
        return torch.tensor(
            [
                int(np.searchsorted(row, number * row[-1], side="right"))
                for row, number in zip(running, drawn, strict=True)
            ]
        )


def their_tokenizer(spec: WhisperSpec, ours: Tokenizer, language: str, task: str) -> Any:
    """Our fake vocabulary under openai/whisper's attribute names, with its way to cut words."""
    from whisper.tokenizer import Tokenizer as TheirTokenizer

    t = spec.tokens
    sequence = ours.sot_sequence(language, task, True)
    theirs = SimpleNamespace(
        eot=t.eot,
        sot=t.sot,
        sot_prev=t.sot_prev,
        sot_lm=t.sot_prev - 1,
        transcribe=t.transcribe,
        translate=t.translate,
        no_speech=t.no_speech,
        no_timestamps=t.no_timestamps,
        timestamp_begin=t.timestamp_begin,
        non_speech_tokens=tuple(i for i in t.suppress_tokens if i < t.eot),
        sot_sequence=sequence,
        sot_sequence_including_notimestamps=(*sequence, t.no_timestamps),
        encode=ours.encode,
        decode=ours.decode,
        decode_with_timestamps=ours.decode_with_timestamps,
        language=language,
    )
    for name in ("split_to_word_tokens", "split_tokens_on_unicode", "split_tokens_on_spaces"):
        setattr(theirs, name, MethodType(getattr(TheirTokenizer, name), theirs))
    return theirs


def patch_whisper(
    monkeypatch: pytest.MonkeyPatch, spec: WhisperSpec, tokenizer: Tokenizer
) -> FakeCategorical:
    """Give openai/whisper our fake vocabulary and the fake network of its model argument.

    Returns what it samples with.
    """
    import whisper.decoding
    import whisper.transcribe  # noqa: F401  (the package's attribute is the function)

    def get_tokenizer(*_: Any, language: str, task: str, **__: Any) -> Any:
        return their_tokenizer(spec, tokenizer, language, task)

    monkeypatch.setattr("whisper.decoding.get_tokenizer", get_tokenizer)
    sampler = FakeCategorical()
    monkeypatch.setattr("whisper.decoding.Categorical", sampler)
    monkeypatch.setattr("whisper.decoding.PyTorchInference", FakeInference)
    monkeypatch.setitem(_transcribe_globals(), "get_tokenizer", get_tokenizer)
    monkeypatch.setitem(_transcribe_globals(), "log_mel_spectrogram", _fake_log_mel)
    return sampler


def _transcribe_globals() -> dict[str, Any]:
    import sys

    return vars(sys.modules["whisper.transcribe"])


def _fake_log_mel(audio: Any, n_mels: int, padding: int) -> Any:
    """Frames that say in their first row where they stand, from 1, and 30 s more of them."""
    import torch

    mel = torch.zeros(n_mels, len(audio) // 160 + padding // 160)
    mel[0] = torch.arange(1, mel.shape[1] + 1)
    return mel


class FakeAttention:
    """Stands for the cross-attention of the only layer: it can be hooked."""

    def __init__(self) -> None:
        self.hooks: list[Any] = []

    def register_forward_hook(self, hook: Any) -> Any:
        self.hooks.append(hook)
        return SimpleNamespace(remove=lambda: self.hooks.remove(hook))


class FakeWhisper:
    """A model for `whisper.transcribe`: its network is a function from tokens to logits."""

    def __init__(
        self,
        spec: WhisperSpec,
        logits: Logits,
        sampler: FakeCategorical | None = None,
        seed: int = 0,
    ) -> None:
        import torch

        self.spec = spec
        self.sampler = sampler or FakeCategorical()
        self.seed = seed
        self.logits = logits
        self.is_multilingual = True
        self.num_languages = len(spec.tokens.languages)
        self.device = torch.device("cpu")
        self.dims = SimpleNamespace(
            n_mels=spec.model.n_mels,
            n_text_ctx=448,
            n_audio_ctx=1500,
            n_audio_state=64,
            n_text_layer=1,
        )
        self.decoder = SimpleNamespace(blocks=[SimpleNamespace(cross_attn=FakeAttention())])
        heads = torch.tensor(spec.tokens.alignment_heads).T
        self.alignment_heads = SimpleNamespace(indices=lambda: heads)
        self.window = FakeWindow(0, 0)
        self.decoded: list[FakeWindow] = []

    def decode(self, mel: Any, options: Any) -> Any:
        import torch
        import whisper.decoding

        self.window = self._window(mel)
        self.decoded.append(self.window)
        self.sampler.start(self.seed, self.window.start, options.temperature)
        return whisper.decoding.decode(self, torch.zeros(1500, 64), options)

    def detect_language(self, mel: Any) -> tuple[None, dict[str, float]]:
        values = self.logits(self._window(mel), (self.spec.tokens.sot,))
        ids = [token for _, token in self.spec.tokens.languages]
        probabilities = np.exp(log_softmax(values[ids])).tolist()
        codes = [code for code, _ in self.spec.tokens.languages]
        return None, dict(zip(codes, probabilities, strict=True))

    def __call__(self, mel: Any, tokens: Any) -> Any:
        """Feed one whole transcript, and show the attention to who hooked it."""
        import torch

        window, ids = self._window(mel[0]), tuple(tokens[0].tolist())
        heads = range(len(self.spec.tokens.alignment_heads))
        scores = np.stack([attention(window, ids, head) for head in heads])
        for hook in self.decoder.blocks[0].cross_attn.hooks:
            hook(None, None, (None, torch.from_numpy(scores)[None]))
        logits = [self.logits(window, ids[: i + 1]) for i in range(len(ids))]
        return torch.from_numpy(np.array(logits))[None]

    def _window(self, mel: Any) -> FakeWindow:
        return FakeWindow(int(mel[0, 0]) - 1, int((mel[0] > 0).sum()))

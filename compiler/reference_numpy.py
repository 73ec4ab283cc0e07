"""Whisper in numpy, written for reading: what `verify` falls back on without transformers.

The architecture is openai/whisper `model.py`; tensor names are Hugging Face's without the leading
"model.". Each tensor is read when it is used and dropped after, so that the memory needed is one
tensor, not one model. Matrix products are numpy's float32 BLAS; softmax and layer norm are float32.
"""

import math

import numpy as np
import numpy.typing as npt

from mwc.compiler.reference import TensorSource
from mwc.runtime.spec import AudioSpec, WhisperSpec

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

LAYER_NORM_EPS = 1e-5
"""torch.nn.LayerNorm's default, which openai/whisper `model.py` leaves alone."""

_ERF_END = 5
"""erf(5) is 1 - 1.5e-12: one, in float32."""

_ERF_STEPS = 256
"""Table intervals per unit: the cubic between two nodes is within 1e-10 of erf."""

_GELU_BLOCK = 1 << 16
"""Elements per block of `gelu`: its temporaries stay in the second-level cache."""


def mel_filters(n_mels: int, audio: AudioSpec) -> Float64:
    """Triangular mel filters [n_fft // 2 + 1, n_mels], each of unit area in Hz.

    The Slaney scale, as in the `mel_80` and `mel_128` arrays that openai/whisper stores
    (`audio.py`, `mel_filters`, made by librosa 0.9 `filters.mel`): linear to 1000 Hz at 200/3 Hz
    per mel, then logarithmic with 27 mels to a factor of 6.4; from 0 Hz to half the sample rate.
    """
    knee_mel = 1000.0 / (200.0 / 3.0)
    log_step = math.log(6.4) / 27.0
    top_mel = knee_mel + math.log(audio.sample_rate / 2 / 1000.0) / log_step
    mels = np.linspace(0.0, top_mel, n_mels + 2)
    edges = np.where(
        mels < knee_mel, mels * 200.0 / 3.0, 1000.0 * np.exp(log_step * (mels - knee_mel))
    )
    bins = np.linspace(0.0, audio.sample_rate / 2, audio.n_fft // 2 + 1)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters: Float64 = np.maximum(0.0, np.minimum(rising, falling)) * 2.0 / (edges[2:] - edges[:-2])
    return filters


def log_mel(samples: Float32, n_mels: int, audio: AudioSpec) -> Float32:
    """Normalised log-mel [n_frames, n_mels] of samples [n], computed in float64.

    As openai/whisper `audio.py`, `log_mel_spectrogram`: reflected by half a frame at both ends,
    periodic Hann window, last frame dropped, log10, clamped to 8 under the maximum, (x + 4) / 4.
    """
    padded = np.pad(samples.astype(np.float64), audio.n_fft // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, audio.n_fft)[:: audio.hop_length][:-1]
    hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(audio.n_fft) / audio.n_fft)
    power = np.abs(np.fft.rfft(frames * hann)) ** 2
    raw = np.log10(np.maximum(power @ mel_filters(n_mels, audio), 1e-10))
    normalised: Float32 = ((np.maximum(raw, raw.max() - 8.0) + 4.0) / 4.0).astype(np.float32)
    return normalised


def _erf_table() -> Float32:
    """Cubic coefficients [intervals + 1, 4] of erf from 0 to _ERF_END, from values and slopes."""
    nodes = np.arange(_ERF_END * _ERF_STEPS + 1) / _ERF_STEPS
    value = np.array([math.erf(x) for x in nodes])
    slope = 2.0 / math.sqrt(math.pi) * np.exp(-(nodes**2)) / _ERF_STEPS
    rise = np.diff(value)
    start, end = slope[:-1], slope[1:]
    cubic = np.stack([value[:-1], start, 3 * rise - 2 * start - end, start + end - 2 * rise], 1)
    return np.concatenate([cubic, [[1.0, 0.0, 0.0, 0.0]]], dtype=np.float32)


_ERF = _erf_table()


def erf(x: Float32) -> Float32:
    """The error function, to float32 rounding, for any shape."""
    scaled = np.minimum(np.abs(x), np.float32(_ERF_END)) * np.float32(_ERF_STEPS)
    index = scaled.astype(np.int32)
    t = scaled - index.astype(np.float32)
    c = np.take(_ERF, index, axis=0, mode="clip")
    y: Float32 = ((c[..., 3] * t + c[..., 2]) * t + c[..., 1]) * t + c[..., 0]
    return np.copysign(y, x)


def gelu(x: Float32) -> Float32:
    """x * Phi(x), with the error function and not its tanh imitation (torch `F.gelu`)."""
    out = np.empty_like(x)
    flat, flat_out = x.reshape(-1), out.reshape(-1)
    for begin in range(0, flat.size, _GELU_BLOCK):
        block = flat[begin : begin + _GELU_BLOCK]
        half = np.float32(0.5) * block
        flat_out[begin : begin + _GELU_BLOCK] = half + half * erf(block * np.float32(0.5**0.5))
    return out


def softmax(x: Float32) -> Float32:
    """Softmax over the last axis."""
    exp: Float32 = np.exp(x - x.max(-1, keepdims=True))
    exp /= exp.sum(-1, keepdims=True)
    return exp


class NumpyReference:
    """A `Reference` over a checkpoint's tensors and nothing else."""

    name = "numpy"

    def __init__(self, tensors: TensorSource, spec: WhisperSpec) -> None:
        """Keep the tensors; nothing is read before it is used."""
        self._tensors = tensors
        self._spec = spec

    def log_mel(self, samples: Float32) -> Float32:
        """Normalised log-mel [3000, n_mels] of samples [480000]."""
        return log_mel(samples, self._spec.model.n_mels, self._spec.audio)

    def trace(self, log_mel: Float32) -> dict[str, Float32]:
        """Every encoder stage; see `Reference.trace`."""
        model = self._spec.model
        x = gelu(self._conv(log_mel, "encoder.conv1", stride=1))
        x = gelu(self._conv(x, "encoder.conv2", stride=2))
        x = x + self._tensors.read("encoder.embed_positions.weight")
        stages = {"conv": x}
        for layer in range(model.n_audio_layer):
            prefix = f"encoder.layers.{layer}"
            h = self._norm(x, f"{prefix}.self_attn_layer_norm")
            x = x + self._attention(h, h, f"{prefix}.self_attn", model.n_audio_head, causal=False)
            x = x + self._feed_forward(x, prefix)
            stages[prefix] = x
        stages["encoder"] = self._norm(x, "encoder.layer_norm")
        return stages

    def cross_kv(self, encoder_out: Float32) -> list[tuple[Float32, Float32]]:
        """Keys and values [n_text_head, 1500, 64] of each decoder layer."""
        model = self._spec.model
        prefixes = [f"decoder.layers.{layer}.encoder_attn" for layer in range(model.n_text_layer)]
        return [self._keys_values(encoder_out, p, model.n_text_head) for p in prefixes]

    def logits(self, encoder_out: Float32, tokens: list[int]) -> Float32:
        """Teacher-forced logits [len(tokens), n_vocab]."""
        model = self._spec.model
        embedding = self._tensors.read("decoder.embed_tokens.weight")
        x = embedding[tokens] + self._tensors.read("decoder.embed_positions.weight")[: len(tokens)]
        for layer in range(model.n_text_layer):
            prefix = f"decoder.layers.{layer}"
            h = self._norm(x, f"{prefix}.self_attn_layer_norm")
            x = x + self._attention(h, h, f"{prefix}.self_attn", model.n_text_head, causal=True)
            h = self._norm(x, f"{prefix}.encoder_attn_layer_norm")
            x = x + self._attention(
                h, encoder_out, f"{prefix}.encoder_attn", model.n_text_head, causal=False
            )
            x = x + self._feed_forward(x, prefix)
        logits: Float32 = self._norm(x, "decoder.layer_norm") @ embedding.T
        return logits

    def _conv(self, x: Float32, name: str, stride: int) -> Float32:
        """Convolve [t, in] with weights [out, in, 3], one zero at each end -> [t / stride, out]."""
        weight = self._tensors.read(f"{name}.weight")
        padded = np.pad(x, ((1, 1), (0, 0)))
        taps = [padded[k : k + len(x) : stride] @ weight[:, :, k].T for k in range(3)]
        out: Float32 = taps[0] + taps[1] + taps[2] + self._tensors.read(f"{name}.bias")
        return out

    def _linear(self, x: Float32, name: str, bias: bool = True) -> Float32:
        """[t, in] @ weights [out, in] -> [t, out]."""
        y: Float32 = x @ self._tensors.read(f"{name}.weight").T
        return y + self._tensors.read(f"{name}.bias") if bias else y

    def _norm(self, x: Float32, name: str) -> Float32:
        """Layer norm over the last axis."""
        centred = x - x.mean(-1, keepdims=True)
        scale = np.sqrt((centred * centred).mean(-1, keepdims=True) + np.float32(LAYER_NORM_EPS))
        weight, bias = self._tensors.read(f"{name}.weight"), self._tensors.read(f"{name}.bias")
        out: Float32 = centred / scale * weight + bias
        return out

    def _feed_forward(self, x: Float32, prefix: str) -> Float32:
        """What a layer's feed-forward block adds."""
        h = self._linear(self._norm(x, f"{prefix}.final_layer_norm"), f"{prefix}.fc1")
        return self._linear(gelu(h), f"{prefix}.fc2")

    def _keys_values(self, x: Float32, prefix: str, heads: int) -> tuple[Float32, Float32]:
        """Keys (which have no bias) and values, [heads, t, 64] each."""
        keys = self._linear(x, f"{prefix}.k_proj", bias=False)
        return _split_heads(keys, heads), _split_heads(self._linear(x, f"{prefix}.v_proj"), heads)

    def _attention(
        self, x: Float32, source: Float32, prefix: str, heads: int, causal: bool
    ) -> Float32:
        """What attending from x [t, d] to source [s, d] adds; causal: to no later position."""
        q = self._linear(x, f"{prefix}.q_proj")
        q = _split_heads(q * np.float32((q.shape[1] // heads) ** -0.5), heads)
        k, v = self._keys_values(source, prefix, heads)
        out = np.empty((heads, len(x), q.shape[2]), np.float32)
        later = np.triu(np.full((len(x), len(source)), -np.inf, np.float32), 1) if causal else None
        for head in range(heads):  # one head's scores at a time: 9 MB for 1500 x 1500
            scores = q[head] @ k[head].T
            out[head] = softmax(scores if later is None else scores + later) @ v[head]
        return self._linear(out.transpose(1, 0, 2).reshape(len(x), -1), f"{prefix}.out_proj")


def _split_heads(x: Float32, heads: int) -> Float32:
    """[t, heads * size] -> [heads, t, size]."""
    return np.ascontiguousarray(x.reshape(len(x), heads, -1).transpose(1, 0, 2))

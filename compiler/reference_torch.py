"""transformers' Whisper over a checkpoint's tensors: the reference `verify` prefers.

Importing this module needs torch and transformers (`pip install 'mwc[verify]'`).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from mwc.compiler.reference import TensorSource
from mwc.runtime.spec import TokenSpec, WhisperSpec

Float32 = npt.NDArray[np.float32]


class TorchReference:
    """A `Reference` built from the tensors alone, so that every source layout can have one."""

    def __init__(self, config: Mapping[str, Any], tensors: TensorSource, spec: WhisperSpec) -> None:
        """Read every tensor, as float32, into transformers' model on the CPU."""
        self.name = f"transformers {transformers.__version__}"
        self._spec = spec
        self._model = _build(config, tensors, spec.tokens)
        self._features = WhisperFeatureExtractor(feature_size=spec.model.n_mels)  # type: ignore[no-untyped-call]

    def log_mel(self, samples: Float32) -> Float32:
        """Normalised log-mel [3000, n_mels] of samples [480000], by the feature extractor."""
        features = self._features(
            samples, sampling_rate=self._spec.audio.sample_rate, return_tensors="np"
        )
        return np.ascontiguousarray(features["input_features"][0].T, np.float32)

    def in_float64(self) -> "TorchReference":
        """Itself, from now on with weights and arithmetic of 64 bits; for `trace`."""
        self.name += " in float64"
        self._model.double()
        return self

    @torch.inference_mode()
    def trace(self, log_mel: Float32) -> dict[str, Float32]:
        """Every encoder stage; see `Reference.trace`."""
        encoder = self._model.model.encoder
        outputs: dict[str, Float32] = {}
        hooks = [
            layer.register_forward_hook(_keep(outputs, f"encoder.layers.{index}"))
            for index, layer in enumerate(encoder.layers)
        ]
        hooks.append(encoder.layers[0].register_forward_pre_hook(_keep_input(outputs, "conv")))
        try:
            features = torch.from_numpy(np.ascontiguousarray(log_mel.T)).to(encoder.dtype)
            out = encoder(features[None])
        finally:
            for hook in hooks:
                hook.remove()
        outputs["encoder"] = _numpy(out.last_hidden_state)
        return outputs

    @torch.inference_mode()
    def cross_kv(self, encoder_out: Float32) -> list[tuple[Float32, Float32]]:
        """Keys and values [n_text_head, 1500, 64] of each decoder layer."""
        source = torch.from_numpy(encoder_out)
        heads = self._spec.model.n_text_head
        return [
            (
                _split_heads(layer.encoder_attn.k_proj(source), heads),
                _split_heads(layer.encoder_attn.v_proj(source), heads),
            )
            for layer in self._model.model.decoder.layers
        ]

    @torch.inference_mode()
    def logits(self, encoder_out: Float32, tokens: list[int]) -> Float32:
        """Teacher-forced logits [len(tokens), n_vocab]."""
        out = self._model(
            encoder_outputs=(torch.from_numpy(encoder_out)[None],),
            decoder_input_ids=torch.tensor([tokens]),
            use_cache=False,
        )
        return _numpy(out.logits)


def _build(config: Mapping[str, Any], tensors: TensorSource, tokens: TokenSpec) -> Any:
    """Make transformers' model without initialising it, then hand it the checkpoint's tensors."""
    settings = {
        **config,
        "tie_word_embeddings": True,
        "decoder_start_token_id": tokens.sot,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokens.eot),
    }
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(WhisperConfig.from_dict(settings))
    state = {f"model.{name}": torch.from_numpy(tensors.read(name)) for name in tensors.shapes}
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()  # type: ignore[no-untyped-call]


def _keep(outputs: dict[str, Float32], name: str) -> Any:
    """Make a forward hook that keeps a layer's output under a name."""

    def hook(module: Any, args: Any, output: Any) -> None:
        outputs[name] = _numpy(output[0] if isinstance(output, tuple) else output)

    return hook


def _keep_input(outputs: dict[str, Float32], name: str) -> Any:
    """Make a forward pre-hook that keeps a layer's input under a name."""

    def hook(module: Any, args: Any) -> None:
        outputs[name] = _numpy(args[0])

    return hook


def _numpy(value: torch.Tensor) -> Float32:
    """Drop the batch axis of one and copy out."""
    array: Float32 = value[0].cpu().numpy().copy()
    return array


def _split_heads(value: torch.Tensor, heads: int) -> Float32:
    """[t, heads * size] -> [heads, t, size]."""
    array: Float32 = value.reshape(len(value), heads, -1).transpose(0, 1).contiguous().numpy()
    return array

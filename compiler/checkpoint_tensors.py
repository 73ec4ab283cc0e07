"""The tensors that a Whisper of given dimensions holds, and whether a checkpoint does."""

from mwc.compiler.checkpoint.types import Checkpoint
from mwc.runtime.errors import WeightMismatch
from mwc.runtime.spec import ModelSpec, WhisperSpec

_ATTENTIONS = {"encoder": ("self_attn",), "decoder": ("self_attn", "encoder_attn")}


def expected_tensors(model: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Every tensor a Whisper of these dimensions holds, with its shape.

    Key projections have no bias; the LM head is the token embedding.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    d = model.n_audio_state

    def linear(name: str, rows: int, columns: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (rows, columns)
        if bias:
            shapes[f"{name}.bias"] = (rows,)

    def norm(name: str) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (d,)

    for name, channels in (("encoder.conv1", model.n_mels), ("encoder.conv2", d)):
        shapes[f"{name}.weight"] = (d, channels, 3)
        shapes[f"{name}.bias"] = (d,)
    shapes["encoder.embed_positions.weight"] = (model.n_audio_ctx, d)
    shapes["decoder.embed_tokens.weight"] = (model.n_vocab, d)
    shapes["decoder.embed_positions.weight"] = (model.n_text_ctx, d)
    stacks = (
        ("encoder", model.n_audio_layer, model.n_audio_mlp),
        ("decoder", model.n_text_layer, model.n_text_mlp),
    )
    for stack, n_layers, mlp in stacks:
        for i in range(n_layers):
            layer = f"{stack}.layers.{i}"
            for attention in _ATTENTIONS[stack]:
                for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    bias = projection != "k_proj"
                    linear(f"{layer}.{attention}.{projection}", d, d, bias)
                norm(f"{layer}.{attention}_layer_norm")
            linear(f"{layer}.fc1", mlp, d)
            linear(f"{layer}.fc2", d, mlp)
            norm(f"{layer}.final_layer_norm")
        norm(f"{stack}.layer_norm")
    return shapes


def check_tensors(checkpoint: Checkpoint, spec: WhisperSpec) -> None:
    """Check that the checkpoint holds exactly the tensors its configuration asks for.

    Raises:
        WeightMismatch: naming what is missing, left over or of another shape.
    """
    expected, found = expected_tensors(spec.model), checkpoint.tensors.shapes
    problems = [
        f"missing: {name} {list(expected[name])}" for name in sorted(expected.keys() - found.keys())
    ]
    problems += [f"left over: {n} {list(found[n])}" for n in sorted(found.keys() - expected.keys())]
    problems += [
        f"{name} has shape {list(found[name])}, not {list(shape)}"
        for name, shape in sorted(expected.items())
        if name in found and found[name] != shape
    ]
    if problems:
        raise WeightMismatch(
            f"the tensors of {checkpoint.origin.source} do not fit its configuration: "
            f"{'; '.join(problems)}; give the files of one model, as they were published."
        )

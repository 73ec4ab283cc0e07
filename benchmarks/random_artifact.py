"""An artifact of any size of Whisper with random weights: its speed is that of the real one.

    python benchmarks/random_artifact.py large-v3 out/large-v3 --target cuda:sm_90a --precision bf16
    python benchmarks/random_artifact.py --fill out/large-v3

The weights follow from their names: `--fill` writes them anew on another machine, where an artifact
came without its `weights` folder because that is too large to carry. The speech detector's and the
log-mel's weights are the real ones, kept in `benchmark-fixed.npz`. The vocabulary is pkg:base's, or
pkg:tiny.en's for the English sizes.
"""

import argparse
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from compile_time import SIZES, spec_of

from mwc.compiler.checkpoint import open_checkpoint
from mwc.compiler.compile import CompileJob, compile_target
from mwc.compiler.convert import target_entry
from mwc.compiler.target import parse_target
from mwc.compiler.vad_weights import installed_detector
from mwc.compiler.vocabulary import write_vocabulary
from mwc.compiler.weight_rules import weight_rules
from mwc.compiler.weights import cast_weight, weight_specs
from mwc.runtime.artifact import open_artifact
from mwc.runtime.artifact_write import ArtifactWriter, Contents
from mwc.runtime.manifest import Provenance, WeightsEntry, read_manifest
from mwc.runtime.progress import silent
from mwc.runtime.spec import TensorSpec
from mwc.runtime.weight_file import write_weights

FIXED = "tokenizer/benchmark-fixed.npz"
"""Where the weights that are not random are kept."""

AHEAD = 8
"""Tensors that are made at the same time."""

Array = npt.NDArray[Any]


def random_weight(spec: TensorSpec) -> Array:
    """A tensor from its name: norms near 1, other vectors near 0, matrices that keep sizes."""
    rng = np.random.Generator(np.random.SFC64(zlib.crc32(spec.name.encode())))
    value = rng.random(spec.shape, np.float32) - np.float32(0.5)
    if spec.name.endswith("norm.weight"):
        return cast_weight(1 + value * np.float32(0.02), spec)
    width = 1e4 if len(spec.shape) == 1 else float(spec.shape[-1])
    return cast_weight(value * np.float32(2.0 / width**0.5), spec)


def weights_of(
    specs: tuple[TensorSpec, ...], fixed: dict[str, Array]
) -> Iterator[tuple[TensorSpec, Callable[[], Array]]]:
    """Every tensor's spec and how to get it; some are made ahead, side by side."""

    def make(spec: TensorSpec) -> Array:
        return fixed[spec.name] if spec.name in fixed else random_weight(spec)

    with ThreadPoolExecutor(AHEAD) as pool:
        for first in range(0, len(specs), AHEAD):
            group = specs[first : first + AHEAD]
            for spec, made in [(spec, pool.submit(make, spec)) for spec in group]:
                yield spec, made.result


def make(size: str, out: Path, target_name: str, precision: str) -> None:
    """Compile, and write everything."""
    spec, target = spec_of(size), parse_target(target_name)
    vocabulary = open_checkpoint("pkg:tiny.en" if size.endswith(".en") else "pkg:base").vocabulary
    fixed = {n: r.make() for n, r in weight_rules(spec).items() if not r.sources}
    specs = tuple(weight_specs(spec, precision).values())
    with ArtifactWriter(out, force=True) as writer:
        write_vocabulary(vocabulary, writer.path("tokenizer/x").parent)
        np.savez(writer.path(FIXED), **fixed)  # type: ignore[arg-type]
        path = f"weights/{precision}.safetensors"
        tensors = write_weights(writer.path(path), weights_of(specs, fixed), silent)
        mef = f"targets/{target.name}/whisper.mef"
        job = CompileJob(spec, precision, target, str(writer.path(mef)))
        entry = target_entry(target, precision, mef, compile_target(job))
        origin = Provenance(
            source=f"random weights, the size of {size}",
            kind="random",
            revision=None,
            files=(),
            licence=None,
            mwc_version=version("mwc"),
            max_version=version("max"),
            mojo_version=version("mojo-compiler"),
            created="",
            options={"precision": precision, "targets": [target_name]},
            notes=(),
        )
        weights = WeightsEntry(precision, path, tensors)
        detector = installed_detector().entry
        writer.commit(Contents(spec, (entry,), (weights,), detector, origin))


def fill(out: Path) -> None:
    """Write the weights that an artifact came without."""
    fixed = dict(np.load(out / FIXED))
    for weights in read_manifest(out).weights:
        path = out / weights.path
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            write_weights(path, weights_of(weights.tensors, fixed), silent)
    open_artifact(out)


def main() -> None:
    """Make an artifact, or its weights."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("size", nargs="?", choices=SIZES, help=", ".join(SIZES))
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--fill", type=Path, metavar="ARTIFACT")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--precision", default="f32")
    given = parser.parse_args()
    if given.fill:
        fill(given.fill)
    elif given.size and given.out:
        make(given.size, given.out, given.target, given.precision)
    else:
        parser.error("give a size and a folder, or --fill and an artifact")


if __name__ == "__main__":
    main()

"""Every kernel alone at a model's sizes: one small graph each, compiled together."""

from collections.abc import Sequence
from pathlib import Path

from case_graphs import Case, Cases
from decoder_cases import add_decoder
from encoder_cases import add_detector, add_encoder

from mwc.compiler.graphs.scope import KERNELS
from mwc.runtime.artifact import open_artifact


def cases_of(
    artifact: Path, rows: Sequence[int], *, kernels: Path = KERNELS, only: Sequence[str] = ()
) -> list[Case]:
    """Every kernel at the sizes and in the precision of an artifact, ready to run.

    `rows`: how many the decoder's kernels take; `kernels` and `only` as for `Cases`.
    """
    manifest = open_artifact(artifact).manifest
    in_float16 = any(tensor.dtype == "float16" for tensor in manifest.weights[0].tensors)
    precision = manifest.targets[0].precision
    cases = Cases(manifest.spec, precision, in_float16=in_float16, kernels=kernels, only=only)
    add_encoder(cases)
    for n in rows:
        add_decoder(cases, n)
    add_detector(cases)
    return cases.compile()

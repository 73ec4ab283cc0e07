"""What `gpu.py` measures of the encoder's arithmetic: every stage beside the same in float64.

A bound that one stage misses says little by itself, as the encoder magnifies a rounding some
hundred times at a few positions (compiler/rounding.py). Beside float64 one sees where an error
begins, and whether the float32 reference that conversions are verified against has one as large.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from gpu_sections import Run

from mwc.compiler.checkpoint import open_checkpoint
from mwc.compiler.config import read_spec
from mwc.compiler.reference_torch import TorchReference
from mwc.compiler.verify import features_of
from mwc.runtime.artifact import open_artifact
from mwc.runtime.audio import read_samples
from mwc.runtime.session import Session

Array = npt.NDArray[Any]


def trace(run: Run) -> dict[str, Any]:
    """The first artifact's encoder, stage by stage, on the clip that is heard."""
    if run.checkpoint is None:
        return {"left out": "no checkpoint was given"}
    session = Session(open_artifact(run.artifacts[0]), device=run.device)
    checkpoint = open_checkpoint(run.checkpoint)
    spec, _ = read_spec(checkpoint)
    samples = read_samples(run.audio)[: spec.audio.n_samples]
    reference = TorchReference(checkpoint.config, checkpoint.tensors, spec)
    window = np.pad(samples, (0, spec.audio.n_samples - len(samples)))
    features = features_of(reference.log_mel(window), len(samples), spec.audio)
    ours = session.trace(features.raw, features.log_mel_max, features.n_frames)
    theirs = reference.trace(features.normalised)
    exact = reference.in_float64().trace(features.normalised)
    return {name: compared(ours[name][0], theirs[name], values) for name, values in exact.items()}


def compared(ours: Array, theirs: Array, exact: Array) -> dict[str, Any]:
    """Largest errors over the largest value, ours and float32's, and where ours is."""
    off = np.abs(ours - exact)
    at = np.unravel_index(int(off.argmax()), off.shape)
    scale = np.abs(exact).max()
    return {
        "ours": float(off.max() / scale),
        "float32's": float(np.abs(theirs - exact).max() / scale),
        "at": [int(i) for i in at],
        "value there": float(exact[at]),
        "largest": float(scale),
    }

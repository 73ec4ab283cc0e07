"""What float32 leaves open: how far a reference moves if its input is rounded otherwise.

Whisper's encoder magnifies what goes into it some hundred to a thousand times at one or two of 1500
positions, those whose values become by far the largest. What float32 gives there is chance:
transformers itself is off from its own float64 by up to 6.6e-4 of the largest value, and by less
than 1e-6 at most others. So a right model misses a bound of 1e-4 on one clip in four, and where it
does, this tells whether the reference knows better. Of 73 clips of speech, repeated to 30 s, 20
miss the bound with tiny.en, at one or two positions, and none is refused with this
(benchmarks/refusals.py).

Measured with tiny.en on 24 of them, 2 CPUs with AVX-512: at 6 positions of 5 clips mwc and
transformers were more than 1e-4 apart, by 1.1e-4 to 1.3e-3. There transformers moved by 2.6e-5 to
8.2e-4 (the most of four roundings), so that 3.7 times that would have been enough; all positions
moved by 3e-7 in the median.
"""

import numpy as np
import numpy.typing as npt

from mwc.compiler.reference import Reference

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

ROUNDINGS = 4
"""How often the reference is asked again."""

LEEWAY = 8.0
"""How many times what it moves by: about twice what was needed; see above."""

SEED = 30
"""Of the directions in which its input is rounded."""


def stage_values(reference: Reference, log_mel: Float32) -> dict[str, Float32]:
    """What the encoder computes of normalised features [3000, n_mels], by stage.

    `Reference.trace`'s [1500, d], then "cross_kv.layers.0.keys" and "cross_kv.layers.0.values",
    [n_text_head, 1500, 64], and so on.
    """
    found = dict(reference.trace(log_mel))
    for layer, (keys, values) in enumerate(reference.cross_kv(found["encoder"])):
        found[f"cross_kv.layers.{layer}.keys"] = keys
        found[f"cross_kv.layers.{layer}.values"] = values
    return found


def leeways(
    reference: Reference, log_mel: Float32, theirs: dict[str, Float32]
) -> dict[str, Float64]:
    """How far off each position of each stage may be beside its bound.

    Args:
        reference: asked ROUNDINGS times more.
        log_mel: normalised features [3000, n_mels].
        theirs: its `stage_values` of them.

    Returns:
        By stage: LEEWAY times the most that any value of a position moved by, [1500, 1] or
        [1, 1500, 1].
    """
    rng = np.random.default_rng(SEED)
    found: dict[str, Float64] = {name: np.zeros(1) for name in theirs}
    for _ in range(ROUNDINGS):
        moved = stage_values(reference, _rounded_otherwise(log_mel, rng))
        for name, values in theirs.items():
            apart = np.abs(moved[name].astype(np.float64) - values)
            others = tuple(axis for axis in range(apart.ndim) if axis != apart.ndim - 2)
            by_position = LEEWAY * apart.max(axis=others, keepdims=True)
            found[name] = np.maximum(found[name], by_position)
    return found


def _rounded_otherwise(log_mel: Float32, rng: np.random.Generator) -> Float32:
    """Each value's neighbour above or below; zeros, which is where there is no audio, stay."""
    towards = np.where(rng.random(log_mel.shape) < 0.5, -np.inf, np.inf).astype(np.float32)
    moved: Float32 = np.where(log_mel == 0, log_mel, np.nextafter(log_mel, towards))
    return moved

"""The parity report: what `verify` measured, against which bounds, as JSON and as lines to read."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mwc.compiler.calibrate import Calibration
from mwc.runtime.errors import OptionError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Bounds:
    """How far a precision may be from a float32 reference, relative to each stage's largest value.

    Attributes:
        features: of the log-mel, which is float32 in every precision.
        layers: of the front end and of each encoder layer.
        encoder: of the encoder's output and the cross-attention's keys and values. The final
            layer norm magnifies the error of positions with a huge mean, which Whisper has.
        logits: of the logits and of what is computed from them.
        margin: how far, in logits, the reference may be from choosing the token that we chose.
        rms: whether layers, encoder, keys and values are measured by their root mean square, not
            by the largest value: with activations of few bits, single values of the few positions
            whose magnitude is hundreds of times the others' are far off, and mean nothing.
    """

    features: float
    layers: float
    encoder: float
    logits: float
    margin: float
    rms: bool = False


BOUNDS = {
    "f32": Bounds(features=1e-4, layers=1e-4, encoder=1e-4, logits=1e-4, margin=1e-3),
    "f16": Bounds(features=1e-4, layers=2.5e-2, encoder=1e-2, logits=2e-2, margin=0.5, rms=True),
    "bf16": Bounds(features=1e-4, layers=2.5e-1, encoder=6e-2, logits=6e-2, margin=1.0, rms=True),
    "int8": Bounds(features=1e-4, layers=6e-1, encoder=1.5e-1, logits=1e-1, margin=1.0, rms=True),
}
"""By the precision of the weights.

f32 is the project's own promise. Those of half precision are about twice the worst error of
transformers itself in that dtype, weights and arithmetic, against float32: tiny.en and base, three
clips each (root mean squares; f16: layers 0.0125, encoder 0.0035, keys and values 0.0042, logits,
by the largest, 0.0075; bf16: 0.114, 0.027, 0.029, 0.041). The largest error says less: at a few
positions values grow so large that in bf16 transformers' own encoder is off by as much as the
largest of them (1.09).
int8's are two to three times what tiny.en and base show on the built-in clip (layers 0.27, encoder,
keys and values 0.071, logits 0.032).
"""


def bounds_of(precision: str) -> Bounds:
    """Return a precision's bounds.

    Raises:
        OptionError: there are none for it.
    """
    try:
        return BOUNDS[precision]
    except KeyError:
        raise OptionError(
            f"There is no bound to verify precision {precision!r} against; "
            f"the precisions that have one are {', '.join(BOUNDS)}."
        ) from None


@dataclass(frozen=True)
class StageError:
    """One stage's error.

    Attributes:
        name: "log_mel", "padding", "conv", "encoder.layers.0", …, "encoder",
            "cross_kv.layers.0", …, "prefill logits", "step logits", "logprobs", "probabilities".
        max_abs: the largest absolute difference.
        max_rel: max_abs over the reference's largest absolute value in the stage; for logprobs
            and probabilities over the largest absolute logit they come from. Where
            `Bounds.rms` says so, the root mean square of the difference over the reference's.
        bound: what max_rel may be at most.
        ok: whether it is; not-a-number is not. Beyond it may be positions that float32 leaves open.
        open_positions: how many are beyond it, but no further than rounding.py allows.
    """

    name: str
    max_abs: float
    max_rel: float
    bound: float
    ok: bool
    open_positions: int = 0


@dataclass(frozen=True)
class Difference:
    """One token that the reference would have chosen differently after the same tokens.

    Attributes:
        with_timestamps: which of the two decodings it is in.
        position: index among the sampled tokens.
        ours: the id we chose.
        theirs: the id the reference chooses there.
        margin: how far the reference is from choosing ours, in logits; infinite where the rules
            forbid ours.
        ok: whether that is within the bound.
    """

    with_timestamps: bool
    position: int
    ours: int
    theirs: int
    margin: float
    ok: bool


@dataclass(frozen=True)
class ParityReport:
    """What `verify` found.

    Attributes:
        reference: what was compared with: "transformers 5.23.0", "numpy".
        precision: of the compiled weights: "f32", "bf16", "f16", "int8".
        bound: the relative error allowed at the logits; each stage states its own.
        stages: in the order of the data.
        tokens_compared: greedy tokens on the clip, without and with timestamps.
        tokens_equal: how many of them the reference chooses too.
        differences: the others.
        ok: every stage within its bound, every difference within the margin.
        targets: the targets that ran; empty where `verify` was given a session alone.
        calibration: word errors on recordings of the user's, by language, if any were given.
    """

    reference: str
    precision: str
    bound: float
    stages: tuple[StageError, ...]
    tokens_compared: int
    tokens_equal: int
    differences: tuple[Difference, ...]
    ok: bool
    targets: tuple[str, ...] = ()
    calibration: tuple[Calibration, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; null where a number is not finite."""
        plain: dict[str, Any] = _finite(dataclasses.asdict(self))
        return plain

    def summary(self) -> list[str]:
        """Lines for people: the verdict, the worst stage, the tokens, and whatever failed."""
        worst = max(self.stages, key=_severity)
        verdict = "matches" if self.ok else "DOES NOT MATCH"
        on = f" on {', '.join(self.targets)}" if self.targets else ""
        lines = [
            f"{self.precision} {verdict} {self.reference}{on}",
            f"{len(self.stages)} stages, the worst: {_describe(worst)}",
            f"{self.tokens_equal} of {self.tokens_compared} greedy tokens equal",
        ]
        failed = [s for s in self.stages if not s.ok and s is not worst]
        lines += [f"beyond its bound: {_describe(s)}" for s in failed]
        lines += [_explain(d) for d in self.differences]
        return lines + [language.summary() for language in self.calibration]


def merge_reports(reports: Mapping[str, ParityReport]) -> ParityReport:
    """One report for several targets of an artifact: each stage's worst, all tokens together."""
    first = next(iter(reports.values()))
    stages = [[report.stages[i] for report in reports.values()] for i in range(len(first.stages))]
    return dataclasses.replace(
        first,
        stages=tuple(worst_of(same[0].name, same) for same in stages),
        tokens_compared=sum(report.tokens_compared for report in reports.values()),
        tokens_equal=sum(report.tokens_equal for report in reports.values()),
        differences=tuple(d for report in reports.values() for d in report.differences),
        ok=all(report.ok for report in reports.values()),
        targets=tuple(reports),
    )


MOST_OPEN = 0.01
"""Share of a stage's positions that may be left open. It has been one or two of 1500."""


def compare(
    name: str,
    ours: Array,
    theirs: Array,
    bound: float,
    scale: float = 0.0,
    *,
    rms: bool = False,
    leeway: Array | None = None,
) -> StageError:
    """Measure one stage; a wrong shape is an infinite error.

    Args:
        name: of the stage.
        ours: what the compiled model computed.
        theirs: what the reference computed.
        bound: what the relative error may be at most.
        scale: what the absolute error is divided by; 0 for the reference's largest value.
        rms: whether the relative error is of root mean squares instead, without a scale.
        leeway: how much further than the bound each position may be off, in absolute terms: as many
            axes as the values have, all but one of size 1. Not with `rms`.
    """
    if ours.shape != theirs.shape:
        return StageError(name, math.inf, math.inf, bound, ok=False)
    difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    max_abs = float(difference.max(initial=0.0))
    if rms:
        error, size = (
            float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) for x in (difference, theirs)
        )
    else:
        error, size = max_abs, scale or float(np.abs(theirs).max(initial=0.0))
    max_rel = error / size if size else (0.0 if error == 0 else math.inf)
    if leeway is None or max_rel <= bound:
        return StageError(name, max_abs, max_rel, bound, ok=max_rel <= bound)
    within = bool((difference <= bound * size + leeway).all())
    others = tuple(axis for axis, length in enumerate(leeway.shape) if length == 1)
    n_open = int((difference > bound * size).any(axis=others).sum()) if within else 0
    ok = within and n_open <= MOST_OPEN * leeway.size
    return StageError(name, max_abs, max_rel, bound, ok, n_open)


def worst_of(name: str, errors: list[StageError]) -> StageError:
    """Put several comparisons of one stage under one name: the one furthest from its reference."""
    return dataclasses.replace(max(errors, key=_severity), name=name)


def _severity(stage: StageError) -> tuple[bool, float]:
    """Order stages by whether they fail, then by how much of their bound they use.

    Not-a-number is worst.
    """
    used = math.inf if math.isnan(stage.max_rel) else stage.max_rel / stage.bound
    return not stage.ok, used


def _describe(stage: StageError) -> str:
    """One stage in words."""
    described = (
        f"{stage.name}, relative error {stage.max_rel:.1e} of {stage.bound:.0e} allowed "
        f"(absolute {stage.max_abs:.1e})"
    )
    if not stage.open_positions:
        return described
    return (
        f"{described} in {stage.open_positions} of its positions, where the reference moves too if "
        "its input is rounded otherwise"
    )


def _explain(difference: Difference) -> str:
    """One token difference in words."""
    mode = "with" if difference.with_timestamps else "without"
    verdict = "a near tie" if difference.ok else "not a near tie"
    return (
        f"token {difference.position} {mode} timestamps: {difference.ours}, the reference says "
        f"{difference.theirs}; margin {difference.margin:.1e}, {verdict}"
    )


def _finite(value: Any) -> Any:
    """Replace what JSON cannot hold by None, all the way down."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

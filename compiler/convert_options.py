"""How to convert, and which ways of it are refused before any work."""

from dataclasses import dataclass
from pathlib import Path

from mwc.compiler.calibrate import check_packages
from mwc.compiler.target import Target, parse_target
from mwc.compiler.weights import PRECISIONS
from mwc.runtime.errors import OptionError


@dataclass(frozen=True)
class ConvertOptions:
    """How to convert.

    Attributes:
        precision: "f32", "bf16" or "f16": dtype of the caches and of the stored matrices (where
            those of f32 lose nothing by it, float16); or "int8", for CPUs: int8 matrices and
            cross-attention caches, 16- and 8-bit activations.
        targets: what to compile for, as `target.parse_target` reads them.
        revision: branch, tag or commit of a Hub id.
        tokenizer: where the vocabulary is, for checkpoints that hold none.
        verify: compare every stage with a reference before the artifact is put in place.
        force: replace an artifact that is there; with int8, keep one beyond its error bounds.
        calibrate: a manifest of transcribed recordings (`calibrate.read_recordings`) on which the
            word error rate is measured, for the parity report; it needs `verify`.
    """

    precision: str = "f32"
    targets: tuple[str, ...] = ("cpu",)
    revision: str | None = None
    tokenizer: str | None = None
    verify: bool = True
    force: bool = False
    calibrate: Path | None = None


DEFAULTS = ConvertOptions()
"""As it is converted unless said otherwise."""


def check_options(options: ConvertOptions) -> tuple[Target, ...]:
    """Refuse wrong options before any work; return the targets.

    Raises:
        OptionError: an option is not allowed, or contradicts another.
    """
    if options.precision not in PRECISIONS:
        raise OptionError(
            f"precision is {options.precision!r}; it must be one of {', '.join(PRECISIONS)}."
        )
    if options.calibrate is not None:
        if not options.verify:
            raise OptionError(
                "--calibrate writes into the report of verifying, which --no-verify leaves out; "
                "give one of the two."
            )
        check_packages()
    if not options.targets:
        raise OptionError("there is no target to compile for; give at least one, such as cpu.")
    targets = tuple(parse_target(text) for text in options.targets)
    for target in targets:
        check_precision(target, options.precision)
    names = [target.name for target in targets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise OptionError(f"target {', '.join(twice)} is given twice.")
    return targets


def check_precision(target: Target, precision: str) -> None:
    """Refuse int8 on a GPU, which has no kernels for it.

    Raises:
        OptionError: that is what is asked for.
    """
    if precision == "int8" and target.device != "cpu":
        raise OptionError(
            f"precision int8 is for CPUs, and {target.name} is not one; "
            "convert with --precision f16 or bf16 for it."
        )

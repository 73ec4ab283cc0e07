"""The weights of an artifact: what is stored of the table of rules, for each precision, and made.

What a matrix becomes with int8 is the matter of int8_parts.py.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mwc.compiler.int8_parts import Quantizer, int8_parts
from mwc.compiler.quantize import fits_packed
from mwc.compiler.weight_rules import Rule, draft_rules, is_stacked, role, weight_rules
from mwc.runtime.errors import WeightMismatch
from mwc.runtime.spec import TensorSpec, WhisperSpec

if TYPE_CHECKING:
    from mwc.compiler.checkpoint import Tensors

Array = npt.NDArray[np.generic]
Float32 = npt.NDArray[np.float32]

PRECISIONS = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "int8": "int8"}
"""Precision of an artifact -> dtype of its matrices. Vectors (norms, biases) stay float32.

An f32 artifact holds those matrices as float16 that lose nothing by it (`exact_in_float16`).
"""

CACHES = {**PRECISIONS, "int8": "float16"}
"""Precision of an artifact -> dtype of its self-attention caches."""

AUDIO_CACHES = PRECISIONS
"""Precision of an artifact -> what its cross-attention caches hold: nearly all that is cached."""


@dataclass(frozen=True)
class Stored:
    """One or more rules that are stored together.

    Attributes:
        name: the name that is stored.
        rules: by their own names.
        is_stacked: whether what is stored has them as first axis; else it is one.
    """

    name: str
    rules: tuple[tuple[str, Rule], ...]
    is_stacked: bool

    @property
    def rule(self) -> Rule:
        """What all of the rules are like but for their sources."""
        return self.rules[0][1]

    def shape(self, sizes: tuple[int | str, ...]) -> tuple[int | str, ...]:
        """The shape of what is of those sizes in each rule."""
        return (len(self.rules), *sizes) if self.is_stacked else sizes

    def put_together(self, arrays: Sequence[Array]) -> Array:
        """What is stored of an array for each rule."""
        return np.stack(arrays) if self.is_stacked else arrays[0]


def _stored_together(rules: Mapping[str, Rule], precision: str) -> list[Stored]:
    """What is stored of the rules, in file order, for a precision."""
    members: dict[tuple[str, bool], list[tuple[str, Rule]]] = {}
    for name, rule in rules.items():
        stacks = precision == "int8" and is_stacked(name)
        key = (role(name) if stacks else name, stacks)
        members.setdefault(key, []).append((name, rule))
    return [Stored(name, tuple(of), stacks) for (name, stacks), of in members.items()]


def weight_specs(
    spec: WhisperSpec, precision: str, *, drafts: bool = False
) -> dict[str, TensorSpec]:
    """Stored name -> TensorSpec, for a precision of PRECISIONS; with copies to draft by."""
    kinds = [(weight_rules(spec), precision), (draft_rules(spec) if drafts else {}, "int8")]
    return {
        tensor.name: tensor
        for rules, precision in kinds
        for stored in _stored_together(rules, precision)
        for tensor in _specs_of(stored, precision)
    }


def _specs_of(stored: Stored, precision: str) -> tuple[TensorSpec, ...]:
    """What is stored: a tensor; of int8 matrices their parts."""
    rule = stored.rule
    if rule.int8 is None or precision != "int8":
        return (_spec_of(stored, precision),)
    parts = int8_parts(stored.name, rule.shape, rule.int8)
    return tuple(_stacked_spec(stored, part.spec) for part in parts)


def _spec_of(stored: Stored, precision: str) -> TensorSpec:
    """What is stored as one tensor."""
    rule = stored.rule
    dtype = PRECISIONS[precision] if rule.is_matrix else "float32"
    return TensorSpec(stored.name, dtype, stored.shape(rule.shape))


def _stacked_spec(stored: Stored, spec: TensorSpec) -> TensorSpec:
    return replace(spec, shape=stored.shape(spec.shape))


def mapped_weights(
    tensors: "Tensors",
    spec: WhisperSpec,
    precision: str,
    *,
    vnni: bool = False,
    drafts: bool = False,
) -> Iterator[tuple[TensorSpec, Callable[[], Array]]]:
    """Every stored tensor's spec, and a function that reads, transforms and casts it.

    The parts of an int8 matrix follow each other, and functions called in that order quantize it
    once (`Quantizer`); called in another one they give the same.

    `vnni`: only CPUs with VNNI will use them, so that int8 values need not fit others. The step
    between two values of an encoder's matrix is 28 % smaller then on average (tiny.en, base).
    `drafts`: with the copies that tokens are drafted by.

    Raises (from the functions):
        WeightMismatch: a float16 artifact cannot hold a value of this checkpoint.
    """
    halves = exact_in_float16(tensors, spec) if precision == "f32" else frozenset()
    quantizer = Quantizer()
    for stored in _stored_together(weight_rules(spec), precision):
        kind = "f16" if stored.name in halves else precision
        yield from _made_parts(tensors, _for_vnni(stored) if vnni else stored, kind, quantizer)
    for stored in _stored_together(draft_rules(spec) if drafts else {}, "int8"):
        yield from _made_parts(tensors, stored, "int8", quantizer)


def _for_vnni(stored: Stored) -> Stored:
    """The same, but that its int8 values need not fit CPUs without VNNI."""
    rules = (
        (name, rule if rule.int8 is None else replace(rule, int8=replace(rule.int8, fits=False)))
        for name, rule in stored.rules
    )
    return replace(stored, rules=tuple(rules))


def _made_parts(
    tensors: "Tensors", stored: Stored, precision: str, quantizer: Quantizer
) -> Iterator[tuple[TensorSpec, Callable[[], Array]]]:
    """What is stored, each with a function that makes it."""
    reads = [partial(_made, tensors, name, rule) for name, rule in stored.rules]
    rule = stored.rule
    if rule.int8 is None or precision != "int8":
        spec = _spec_of(stored, precision)
        yield spec, lambda: stored.put_together([cast_weight(read(), spec) for read in reads])
    else:
        for part in int8_parts(stored.name, rule.shape, rule.int8):
            make = partial(quantizer.make, part, stored.name, rule.int8, reads)
            yield _stacked_spec(stored, part.spec), partial(_put_together, stored, make)


def _put_together(stored: Stored, make: Callable[[], list[Array]]) -> Array:
    return stored.put_together(make())


def exact_in_float16(tensors: "Tensors", spec: WhisperSpec) -> frozenset[str]:
    """The matrices that float16 holds without loss, as it does their namesakes of other layers.

    OpenAI published its models in float16, whatever dtype a checkpoint has now. All of them are
    such but those that hold the queries, whose smallest values an eighth takes out of its range.
    Kernels widen what they read, so a step reads half of the bytes and computes the same.
    """
    matrices = {name: rule for name, rule in weight_rules(spec).items() if rule.is_matrix}
    inexact: set[str] = set()
    for name, rule in matrices.items():
        if role(name) not in inexact and not _is_of_halves(_made(tensors, name, rule)):
            inexact.add(role(name))
    return frozenset(name for name in matrices if role(name) not in inexact)


def _is_of_halves(value: Float32) -> bool:
    """Whether float16 has every value of it."""
    with np.errstate(over="ignore"):
        return bool(np.array_equal(value.astype(np.float16).astype(np.float32), value))


def _made(tensors: "Tensors", name: str, rule: Rule) -> Float32:
    """A rule's tensor, in float32."""
    value = rule.make(*(tensors.read(source) for source in rule.sources))
    if value.shape != rule.shape:
        raise ValueError(f"{name} came out as {value.shape}, not {rule.shape}")
    return value


def fit_without_vnni(weights: Mapping[str, Array], spec: WhisperSpec) -> bool:
    """Whether stored int8 weights can be used by CPUs without VNNI."""
    rules = weight_rules(spec)
    return all(
        fits_packed(weights[name]) for name, rule in rules.items() if rule.int8 and rule.int8.fits
    )


def cast_weight(value: Float32, spec: TensorSpec) -> Array:
    """float32 -> the stored dtype; bfloat16 as uint16 bit patterns, rounded to nearest even.

    Raises:
        WeightMismatch: a value is too large for float16.
    """
    if spec.dtype == "bfloat16":
        bits = np.ascontiguousarray(value, np.float32).view(np.uint32)
        rounding = ((bits >> 16) & 1) + np.uint32(0x7FFF)
        return ((bits + rounding) >> 16).astype(np.uint16)
    if spec.dtype == "float16":
        largest = float(np.abs(value).max(initial=0.0))
        if largest > float(np.finfo(np.float16).max):
            raise WeightMismatch(
                f"{spec.name} holds a value of magnitude {largest:g}, more than float16 can "
                "(65504); convert with --precision bf16 or f32"
            )
        return value.astype(np.float16)
    return np.ascontiguousarray(value, np.float32)

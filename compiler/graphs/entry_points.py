"""The table of entry points: every graph of an artifact, its inputs, outputs and builder.

`build_module` turns the table into one MAX module, and into the signatures the runtime checks.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from max.graph import Graph, KernelLibrary, Module, TensorValue, Value

from mwc.compiler.graphs import decoder, drafted_steps, encoder, log_mel, vad
from mwc.compiler.graphs import decoder_signatures as signatures
from mwc.compiler.graphs.scope import Plan, Scope, input_type
from mwc.runtime.spec import GraphSignature, TensorSpec

Specs = Callable[[Plan], tuple[TensorSpec, ...]]


@dataclass(frozen=True)
class EntryPoint:
    """One graph: its name, and functions of the plan for its inputs, outputs and body."""

    name: str
    inputs: Specs
    outputs: Specs
    build: Callable[[Scope, dict[str, Value]], list[TensorValue]]


ENTRY_POINTS = (
    EntryPoint("log_mel", log_mel.inputs, log_mel.outputs, log_mel.build),
    EntryPoint("vad", vad.inputs, vad.outputs, vad.build),
    EntryPoint("encode", encoder.encode_inputs, encoder.encode_outputs, encoder.build_encode),
    EntryPoint("trace", encoder.trace_inputs, encoder.trace_outputs, encoder.build_trace),
    EntryPoint(
        "prefill", signatures.prefill_inputs, signatures.prefill_outputs, decoder.build_prefill
    ),
    EntryPoint("step", signatures.step_inputs, signatures.step_outputs, decoder.build_step),
    EntryPoint("steps", signatures.steps_inputs, signatures.steps_outputs, decoder.build_steps),
    EntryPoint(
        "copy_rows",
        signatures.copy_rows_inputs,
        signatures.copy_rows_outputs,
        decoder.build_copy_rows,
    ),
    EntryPoint("logits", signatures.logits_inputs, signatures.logits_outputs, decoder.build_logits),
    EntryPoint("align", signatures.align_inputs, signatures.align_outputs, decoder.build_align),
)


DRAFTED_STEPS = EntryPoint(
    "steps", drafted_steps.inputs, drafted_steps.outputs, drafted_steps.build
)
"""In place of the other `steps`, where tokens are drafted: float32 on CPUs."""


def entry_points_of(plan: Plan) -> tuple[EntryPoint, ...]:
    """Every entry point of a plan's artifact."""
    if not plan.drafts:
        return ENTRY_POINTS
    return tuple(DRAFTED_STEPS if e.name == DRAFTED_STEPS.name else e for e in ENTRY_POINTS)


def build_module(
    plan: Plan, entry_points: tuple[EntryPoint, ...] = ENTRY_POINTS
) -> tuple[Module, tuple[GraphSignature, ...]]:
    """Build every entry point for a plan.

    Returns:
        One module with a graph per entry point, and their signatures in the same order.
    """
    module = Module()
    library, precompiled = load_kernels(plan.kernels)
    plan = replace(plan, kernels=precompiled)
    return module, tuple(_build(plan, entry, module, library) for entry in entry_points)


def load_kernels(source: Path) -> tuple[KernelLibrary, Path]:
    """Load a package of kernels, precompiling it once; return its library and that file.

    Given the source again, MAX would precompile it again for every graph and subgraph.
    """
    library = KernelLibrary()
    before = set(library.library_paths())
    library.load_paths([source])
    (precompiled,) = set(library.library_paths()) - before
    return library, precompiled


def _build(plan: Plan, entry: EntryPoint, module: Module, library: KernelLibrary) -> GraphSignature:
    inputs, outputs = entry.inputs(plan), entry.outputs(plan)
    with Graph(
        entry.name,
        input_types=[input_type(spec, plan.device) for spec in inputs],
        kernel_library=library,
        module=module,
    ) as graph:
        scope = Scope(graph, plan)
        names = [spec.name for spec in inputs]
        values = dict(zip(names, graph.inputs, strict=True))
        results = entry.build(scope, values)
        _check_outputs(entry.name, outputs, results)
        graph.output(*results)
    return GraphSignature(entry.name, inputs, outputs, scope.used())


def _check_outputs(name: str, specs: tuple[TensorSpec, ...], results: list[TensorValue]) -> None:
    """The builder's results have the ranks and fixed sizes that the signature promises."""
    if len(specs) != len(results):
        raise ValueError(f"{name} builds {len(results)} outputs, its signature has {len(specs)}")
    for spec, value in zip(specs, results, strict=True):
        shape = tuple(str(size) for size in value.shape)
        if shape != tuple(str(size) for size in spec.shape):
            raise ValueError(f"{name}.{spec.name} has shape {shape}, not {spec.shape}")

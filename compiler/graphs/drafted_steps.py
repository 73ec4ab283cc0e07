"""`steps` of a float32 model on a CPU: tokens drafted by int8 copies, and checked in one pass.

A step waits for the weights and caches it reads, whether it feeds one token or a few. So int8
copies of the weights, which read a third of the bytes, draft what comes next, token by token, and
the model itself is then fed all of it at once. What it chooses after each token is what `step`
would have chosen, to the last bit, as far as the draft was right; the caller drops the rest
(tiny.en, 524 s of speech: 1.1 % of the tokens).
(Speculative decoding: Leviathan et al., 2023, for greedy choices; the draft is the model itself.)

Drafting and checking write the same self-attention cache: the check overwrites what the draft left.
"""

from max.graph import TensorValue, Value, ops

from mwc.compiler.graphs import decoder
from mwc.compiler.graphs import decoder_signatures as signatures
from mwc.compiler.graphs.encoder import draft_caches
from mwc.compiler.graphs.scope import Plan, Scope
from mwc.runtime.decoder import DRAFTED_STEPS
from mwc.runtime.spec import TensorSpec

FED_TOGETHER = "fed"
"""The size of the batch that is checked: rows times DRAFTED_STEPS."""


def inputs(plan: Plan) -> tuple[TensorSpec, ...]:
    """As other `steps`, and how many candidates of each row a draft has to be exact for."""
    wanted = TensorSpec("wanted", "int32", ("tokens",))
    return (*signatures.steps_inputs(plan), wanted, *draft_caches(plan))


def outputs(plan: Plan) -> tuple[TensorSpec, ...]:
    """What the model chooses after each token, its log-probability, and the tokens it was fed."""
    shape = ("tokens", DRAFTED_STEPS)
    return (
        TensorSpec("chosen", "int32", shape),
        TensorSpec("logprobs", "float32", shape),
        TensorSpec("fed", "int32", shape),
    )


def build(scope: Scope, values: dict[str, Value]) -> list[TensorValue]:
    """Draft all but the first token, then check them."""
    fed = _draft(scope, values)
    together = {name: _together(name, fed) for name in ("tokens", "positions", "rule_states")}
    for name in ("rows", "windows", "temperatures", "uniforms"):
        together[name] = _together(name, [values] * DRAFTED_STEPS)
    x = decoder.run_layers(scope, {**values, **together}).x
    chosen, logprobs = decoder.step_choice(scope, x, {**values, **together})
    shape = [values["tokens"].tensor.shape[0], DRAFTED_STEPS]
    return [
        ops.reshape(ops.rebind(flat, [shape[0] * DRAFTED_STEPS, *flat.shape[1:]]), shape)
        for flat in (chosen, logprobs, together["tokens"])
    ]


def _draft(scope: Scope, values: dict[str, Value]) -> list[dict[str, Value]]:
    """The inputs of DRAFTED_STEPS steps, each fed what the int8 copies chose after the last one.

    Once these have ended every row they compute nothing, and draft eot. The model is fed that too,
    each at its position: it may choose to go on.
    """
    scope = scope.for_drafts()
    names = [spec.name for spec in draft_caches(scope.plan)]
    values = {**values, **{name.removeprefix("draft_"): values[name] for name in names}}
    n_drafted = DRAFTED_STEPS - 1
    drafted, _, _ = decoder.int8_steps(scope, values, n_drafted, until_all_end=True)
    steps = [values]
    for i in range(n_drafted):
        steps.append(decoder.fed(scope, drafted[:, i : i + 1], steps[-1]))
    return steps


def _together(name: str, steps: list[dict[str, Value]]) -> TensorValue:
    """One input of all steps, [n, …] each, as [n * DRAFTED_STEPS, …]: a row's stand together."""
    each = [ops.unsqueeze(step[name].tensor, 1) for step in steps]
    rows, _, *rest = each[0].shape
    flat = ops.reshape(ops.concat(each, axis=1), [rows * DRAFTED_STEPS, *rest])
    return ops.rebind(flat, [FED_TOGETHER, *rest])

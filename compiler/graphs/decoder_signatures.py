"""What the decoder's graphs take and give; `decoder.py` builds them."""

from mwc.compiler.graphs.encoder import cross_caches
from mwc.compiler.graphs.scope import Plan
from mwc.runtime.decoder import (
    RULE_STATE_SIZE,
    STEPS_AHEAD,
    STEPS_UNTIL_END,
    TEXT_KEY_SHAPE,
    TEXT_VALUE_SHAPE,
)
from mwc.runtime.spec import TensorSpec

TOKEN_INPUTS = (
    TensorSpec("tokens", "int32", ("tokens",)),
    TensorSpec("rows", "int32", ("tokens",)),
    TensorSpec("positions", "int32", ("tokens",)),
    TensorSpec("windows", "int32", ("tokens",)),
)
"""The flat batch every decoder graph starts with."""


def self_caches(plan: Plan) -> tuple[TensorSpec, TensorSpec]:
    """self_k [layer, row, head, 28, 64, 16] and self_v [layer, row, head, 448, 64]."""
    model = plan.model
    head = (model.n_text_layer, "row_slots", model.n_text_head)
    return (
        TensorSpec("self_k", plan.cache, (*head, *TEXT_KEY_SHAPE), mutable=True),
        TensorSpec("self_v", plan.cache, (*head, *TEXT_VALUE_SHAPE), mutable=True),
    )


def caches(plan: Plan) -> tuple[TensorSpec, ...]:
    """The self-attention caches, then the cross-attention caches."""
    return (*self_caches(plan), *cross_caches(plan))


def _rules(plan: Plan, batch: str) -> tuple[TensorSpec, ...]:
    """What a choice depends on; `ranks` counts 0, 1, … as many candidates as are wanted."""
    return (
        TensorSpec("suppress", "float32", (2, plan.model.n_vocab)),
        TensorSpec("rule_states", "int32", (batch, RULE_STATE_SIZE)),
        TensorSpec("temperatures", "float32", (batch,)),
        TensorSpec("uniforms", "float32", (batch,)),
        TensorSpec("ranks", "int32", ("candidates",)),
    )


def _wanted(plan: Plan) -> tuple[TensorSpec, ...]:
    """With int8 weights, how many candidates each row's logits have to be exact for."""
    return (TensorSpec("wanted", "int32", ("tokens",)),) if plan.int8 else ()


def step_inputs(plan: Plan) -> tuple[TensorSpec, ...]:
    """One token per active row, the suppression masks, each row's rule state, the caches."""
    return (*TOKEN_INPUTS, *_rules(plan, "tokens"), *_wanted(plan), *caches(plan))


def step_outputs(plan: Plan) -> tuple[TensorSpec, ...]:
    """The candidates of each row, best first, and their log-probabilities."""
    return (
        TensorSpec("chosen", "int32", ("tokens", "candidates")),
        TensorSpec("logprobs", "float32", ("tokens", "candidates")),
    )


def steps_inputs(plan: Plan) -> tuple[TensorSpec, ...]:
    """As `step`, for one candidate of each row."""
    return (*TOKEN_INPUTS, *_rules(plan, "tokens")[:-1], *_wanted(plan), *caches(plan))


def steps_outputs(plan: Plan) -> tuple[TensorSpec, ...]:
    """Tokens of each row, each fed to the next step, and their log-probabilities.

    In int8 they end with the step in which a row ends, and `taken` says how many there are.
    """
    n_steps = STEPS_UNTIL_END if plan.int8 else STEPS_AHEAD
    taken = (TensorSpec("taken", "int32", (1,)),) if plan.int8 else ()
    return (
        TensorSpec("chosen", "int32", ("tokens", n_steps)),
        TensorSpec("logprobs", "float32", ("tokens", n_steps)),
        *taken,
    )


def prefill_inputs(plan: Plan) -> tuple[TensorSpec, ...]:
    """Prompts, which of their tokens are needed in the end, and which of those are last and sot."""
    return (
        *TOKEN_INPUTS,
        TensorSpec("ends", "int32", ("ends",)),
        TensorSpec("last", "int32", ("batch",)),
        TensorSpec("sot", "int32", ("batch",)),
        *_rules(plan, "batch"),
        *caches(plan),
    )


def prefill_outputs(plan: Plan) -> tuple[TensorSpec, ...]:
    """First candidates, log-probabilities, no_speech_prob, language probabilities if any."""
    languages = len(plan.spec.tokens.languages)
    outputs = (
        TensorSpec("chosen", "int32", ("batch", "candidates")),
        TensorSpec("logprobs", "float32", ("batch", "candidates")),
        TensorSpec("no_speech_probs", "float32", ("batch",)),
    )
    if not languages:
        return outputs
    return (*outputs, TensorSpec("language_probs", "float32", ("batch", languages)))


def logits_inputs(plan: Plan) -> tuple[TensorSpec, ...]:
    """Teacher-forced tokens and the caches."""
    return (*TOKEN_INPUTS, *caches(plan))


def logits_outputs(plan: Plan) -> tuple[TensorSpec, ...]:
    """logits float32 [tokens, n_vocab], before any filter."""
    return (TensorSpec("logits", "float32", ("tokens", plan.model.n_vocab)),)


def align_inputs(plan: Plan) -> tuple[TensorSpec, ...]:
    """Teacher-forced tokens and the caches."""
    return (*TOKEN_INPUTS, *caches(plan))


def align_outputs(plan: Plan) -> tuple[TensorSpec, ...]:
    """Scores before softmax of the alignment heads, in the order of TokenSpec.alignment_heads,
    and each token's log-probabilities' source: the logits.
    """
    heads = len(plan.spec.tokens.alignment_heads)
    return (
        TensorSpec("scores", "float32", (heads, "tokens", plan.model.n_audio_ctx)),
        *logits_outputs(plan),
    )


def copy_rows_inputs(plan: Plan) -> tuple[TensorSpec, ...]:
    """Row slots to copy from and to, how many positions of each, and the caches."""
    return (
        TensorSpec("sources", "int32", ("copies",)),
        TensorSpec("targets", "int32", ("copies",)),
        TensorSpec("lengths", "int32", ("copies",)),
        *self_caches(plan),
    )


def copy_rows_outputs(plan: Plan) -> tuple[TensorSpec, ...]:
    """The targets again: a graph has to return something."""
    return (TensorSpec("copied", "int32", ("copies",)),)

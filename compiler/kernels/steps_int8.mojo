"""Greedy steps of int8 artifacts, as one operation: what is chosen is fed, without the host.

An operation costs 20 µs to start, and a call of a graph more the more operations it has: as much,
of a small model, as half a step. So the threads start once for as many steps as are asked for, and go
through the phases of all of them together (`parallel.work_through`).
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from extensibility import _MutableInputTensor as MutableInputTensor
from max.algorithm import sync_parallelize
from max.gpu.host import DeviceContext

from .cross_attention_int8 import U8
from .decoder_layers_int8 import DecoderLayers, LayerWeights, caches_of, linears_of, norms_of
from .feed import feed_rows
from .likely_choice import Head, LikelyChoice, Rules
from .parallel import phase_counters, work_through
from .pointers import Room, untracked
from .quantized import F32, I8, I32
from .rules import STATE_SIZE
from .token_embedding import embedding_of


struct Fed(Movable):
    """What n rows are fed, step by step, and whether another step follows.

    `goes_on` [steps] keeps what was true after each step, for threads that come late.
    """

    var tokens: Room[Int32]
    var positions: Room[Int32]
    var states: Room[Int32]
    var chosen: Room[Int32]
    var logprobs: Room[Float32]
    var goes_on: Room[Bool]
    var n: Int

    def __init__(
        out self,
        tokens: Pointer[Int32, _],
        positions: Pointer[Int32, _],
        states: Pointer[Int32, _],
        n: Int,
        steps: Int,
    ):
        """The first step's inputs, as mwc_feed has them."""
        self.tokens = Room[Int32](n)
        self.positions = Room[Int32](n)
        self.states = Room[Int32](n * STATE_SIZE)
        self.chosen = Room[Int32](n)
        self.logprobs = Room[Float32](n)
        self.goes_on = Room[Bool](steps)
        self.n = n
        for i in range(n):
            self.tokens.at[unsafe_offset=i] = tokens[unsafe_offset=i]
            self.positions.at[unsafe_offset=i] = positions[unsafe_offset=i]
        for i in range(n * STATE_SIZE):
            self.states.at[unsafe_offset=i] = states[unsafe_offset=i]

    def take(
        self,
        chosen: Pointer[mut=True, Int32, _],
        logprobs: Pointer[mut=True, Float32, _],
        step: Int,
        steps: Int,
        eot: Int,
        begin: Int,
        until_all_end: Bool,
    ):
        """Put a step's choice into chosen and logprobs [n, steps], and make the next step's inputs."""
        var ended = 0
        for i in range(self.n):
            var token = self.chosen.at[unsafe_offset=i]
            chosen[unsafe_offset=i * steps + step] = token
            logprobs[unsafe_offset=i * steps + step] = self.logprobs.at[unsafe_offset=i]
            ended += Int(Int(token) == eot)
        var most = self.n if until_all_end else 1
        self.goes_on.at[unsafe_offset=step] = step + 1 < steps and ended < most
        feed_rows(
            self.tokens.at, self.positions.at, self.states.at, self.chosen.at, self.positions.at,
            self.states.at, begin, self.n,
        )


@extensibility.register("mwc_steps_int8")
struct StepsInt8:
    """Up to `steps` tokens of each of n rows and their log-probabilities, [n, steps] each.

    The first inputs are the caches, as for mwc_decoder_layers_int8; tokens, rows, positions and windows
    int32 [n]; `layers` int32 [2]: 0 and how many there are; the table of positions f32 [n_ctx, state].
    Then the token embedding and the last norm, and what the choice depends on, as for
    mwc_norm_choose_int8; and the weights of the layers, as for mwc_decoder_layers_int8.

    It stops after a step in which a row ended; `until_all_end`: after one in which all did. `taken`
    int32 [1] says how many steps it took. What follows of chosen is eot, with log-probabilities of 0.
    """

    @staticmethod
    def execute[target: StaticString, KV: DType, length: Int, until_all_end: Bool](
        chosen: OutputTensor[dtype=I32, rank=2, ...],
        logprobs: OutputTensor[dtype=F32, rank=2, ...],
        taken: OutputTensor[dtype=I32, rank=1, ...],
        self_k: MutableInputTensor[dtype=KV, rank=6, ...],
        self_v: MutableInputTensor[dtype=KV, rank=5, ...],
        cross_k: MutableInputTensor[dtype=U8, rank=5, ...],
        cross_v: MutableInputTensor[dtype=U8, rank=4, ...],
        tokens: InputTensor[dtype=I32, rank=1, ...],
        rows: InputTensor[dtype=I32, rank=1, ...],
        positions: InputTensor[dtype=I32, rank=1, ...],
        windows: InputTensor[dtype=I32, rank=1, ...],
        layers: InputTensor[dtype=I32, rank=1, ...],
        table: InputTensor[dtype=F32, rank=2, ...],
        gamma: InputTensor[dtype=F32, rank=1, ...],
        beta: InputTensor[dtype=F32, rank=1, ...],
        w: InputTensor[dtype=U8, rank=5, ...],
        scale: InputTensor[dtype=F32, rank=1, ...],
        column_scale: InputTensor[dtype=F32, rank=1, ...],
        rests: InputTensor[dtype=I8, rank=4, ...],
        bounds: InputTensor[dtype=F32, rank=1, ...],
        wanted: InputTensor[dtype=I32, rank=1, ...],
        suppress: InputTensor[dtype=F32, rank=2, ...],
        states: InputTensor[dtype=I32, rank=2, ...],
        temperatures: InputTensor[dtype=F32, rank=1, ...],
        uniforms: InputTensor[dtype=F32, rank=1, ...],
        ids: InputTensor[dtype=I32, rank=1, ...],
        self_gamma: InputTensor[dtype=F32, rank=2, ...],
        self_beta: InputTensor[dtype=F32, rank=2, ...],
        qkv_w: InputTensor[dtype=DType.int8, rank=5, ...],
        qkv_scale: InputTensor[dtype=F32, rank=2, ...],
        qkv_group_scale: InputTensor[dtype=DType.uint8, rank=4, ...],
        qkv_bias: InputTensor[dtype=F32, rank=2, ...],
        self_out_w: InputTensor[dtype=DType.int8, rank=5, ...],
        self_out_scale: InputTensor[dtype=F32, rank=2, ...],
        self_out_group_scale: InputTensor[dtype=DType.uint8, rank=4, ...],
        self_out_bias: InputTensor[dtype=F32, rank=2, ...],
        cross_gamma: InputTensor[dtype=F32, rank=2, ...],
        cross_beta: InputTensor[dtype=F32, rank=2, ...],
        q_w: InputTensor[dtype=DType.int8, rank=5, ...],
        q_scale: InputTensor[dtype=F32, rank=2, ...],
        q_group_scale: InputTensor[dtype=DType.uint8, rank=4, ...],
        q_bias: InputTensor[dtype=F32, rank=2, ...],
        cross_out_w: InputTensor[dtype=DType.int8, rank=5, ...],
        cross_out_scale: InputTensor[dtype=F32, rank=2, ...],
        cross_out_group_scale: InputTensor[dtype=DType.uint8, rank=4, ...],
        cross_out_bias: InputTensor[dtype=F32, rank=2, ...],
        final_gamma: InputTensor[dtype=F32, rank=2, ...],
        final_beta: InputTensor[dtype=F32, rank=2, ...],
        fc1_w: InputTensor[dtype=DType.int8, rank=5, ...],
        fc1_scale: InputTensor[dtype=F32, rank=2, ...],
        fc1_group_scale: InputTensor[dtype=DType.uint8, rank=4, ...],
        fc1_bias: InputTensor[dtype=F32, rank=2, ...],
        fc2_w: InputTensor[dtype=DType.int8, rank=5, ...],
        fc2_scale: InputTensor[dtype=F32, rank=2, ...],
        fc2_group_scale: InputTensor[dtype=DType.uint8, rank=4, ...],
        fc2_bias: InputTensor[dtype=F32, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        var weights = LayerWeights(
            norms_of(self_gamma, self_beta),
            linears_of(qkv_w, qkv_scale, qkv_group_scale, qkv_bias),
            linears_of(self_out_w, self_out_scale, self_out_group_scale, self_out_bias),
            norms_of(cross_gamma, cross_beta),
            linears_of(q_w, q_scale, q_group_scale, q_bias),
            linears_of(cross_out_w, cross_out_scale, cross_out_group_scale, cross_out_bias),
            norms_of(final_gamma, final_beta),
            linears_of(fc1_w, fc1_scale, fc1_group_scale, fc1_bias),
            linears_of(fc2_w, fc2_scale, fc2_group_scale, fc2_bias),
        )
        var n = tokens.dim_size(0)
        var steps = chosen.dim_size(1)
        var k = table.dim_size(1)
        var eot = Int(ids.unsafe_ptr()[unsafe_offset=0])
        var begin = Int(ids.unsafe_ptr()[unsafe_offset=1])
        var fed = Fed(
            tokens.unsafe_ptr(), positions.unsafe_ptr(), states.unsafe_ptr(), n, steps
        )
        var together = DecoderLayers[KV, length](
            weights, caches_of(self_k, self_v, cross_k, cross_v, layers),
            untracked(rows.unsafe_ptr()), untracked(fed.positions.at), untracked(windows.unsafe_ptr()),
            n, 0, Int(layers.unsafe_ptr()[unsafe_offset=1]),
        )
        var head = Head(
            untracked(gamma.unsafe_ptr()), untracked(beta.unsafe_ptr()),
            untracked(column_scale.unsafe_ptr()),
            embedding_of(
                w.unsafe_ptr(), rests.unsafe_ptr(), rests.dim_size(0) > 0, scale.unsafe_ptr(),
                scale.dim_size(0), k,
            ),
            untracked(bounds.unsafe_ptr()),
        )
        var rules = Rules(
            untracked(wanted.unsafe_ptr()), untracked(suppress.unsafe_ptr()),
            untracked(fed.states.at), untracked(temperatures.unsafe_ptr()),
            untracked(uniforms.unsafe_ptr()), eot, begin,
        )
        var x = Room[Float32](n * k)
        var queries = Room[Float32](n * k * Int(layers.unsafe_ptr()[unsafe_offset=1]))
        var choice = LikelyChoice(
            head, rules, untracked(x.at), fed.chosen.at, fed.logprobs.at, n, 1, steps, together.threads
        )
        choice.take_rows(0)
        var phases = 2 + together.phases() + LikelyChoice.PHASES
        var counter_list = phase_counters(steps * phases)
        var counters = counter_list.unsafe_ptr()
        var chosen_ptr = chosen.unsafe_ptr()
        var logprob_ptr = logprobs.unsafe_ptr()
        var places = table.unsafe_ptr()
        for i in range(n * steps):
            chosen_ptr[unsafe_offset=i] = Int32(eot)
            logprob_ptr[unsafe_offset=i] = 0

        def embed(i: Int) {imm}:
            var place = places.unsafe_offset(Int(fed.positions.at[unsafe_offset=i]) * k)
            head.embedding.put_row(
                x.at.unsafe_offset(i * k), Int(fed.tokens.at[unsafe_offset=i]), head.columns, place
            )

        def task(t: Int) {imm}:
            for step in range(steps):
                var phase = step * phases

                def feed(item: Int) {imm}:
                    fed.take(chosen_ptr, logprob_ptr, step, steps, eot, begin, until_all_end)
                    if fed.goes_on.at[unsafe_offset=step]:
                        choice.take_rows(step + 1)

                work_through(embed, n, counters, phase)
                together.work(x.at, untracked(x.at), queries.at, counters, phase + 1)
                choice.work(step, counters, phase + 1 + together.phases())
                work_through(feed, 1, counters, phase + phases - 1)
                if not fed.goes_on.at[unsafe_offset=step]:
                    break

        if together.threads == 1:
            task(0)
        else:
            sync_parallelize(task, together.threads)
        var last = 0
        while fed.goes_on.at[unsafe_offset=last]:
            last += 1
        taken.unsafe_ptr()[unsafe_offset=0] = Int32(last + 1)
        _ = fed^
        _ = together^
        _ = x^
        _ = queries^
        _ = choice^
        _ = counter_list^

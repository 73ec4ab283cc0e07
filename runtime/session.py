"""A compiled target in memory, ready to run.

A `Session`'s methods are the entry points, numpy in and numpy out, what they are given checked;
`Decoder` (decoder.py) is the part of them that decoding is written against. How MAX is called is in
graph_caller.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mwc.runtime.artifact import (
    Artifact,
    TargetEntry,
    WeightsEntry,
    select_target,
    stored_weights,
)
from mwc.runtime.caches import cross_kv_of
from mwc.runtime.checks import check_counts, check_distinct, check_range, check_shapes
from mwc.runtime.decoder import (
    ENCODED_TOGETHER,
    HEARD_AHEAD,
    HEARD_TOGETHER,
    MOST_AHEAD,
    Choice,
    Float32,
    Int32,
    PrefillResult,
    PrefillRow,
    StepBatch,
)
from mwc.runtime.device_graph import DeviceGraph
from mwc.runtime.devices import accelerators, open_device, parse_device
from mwc.runtime.errors import OptionError
from mwc.runtime.graph_caller import GraphCaller
from mwc.runtime.graph_files import load_graphs, load_weights
from mwc.runtime.laps import Laps
from mwc.runtime.prefill_groups import PROMPT_TOKENS, in_groups, joined
from mwc.runtime.row_copies import copy_rows_on_host
from mwc.runtime.slot_memory import Sizes, cache_bytes, check_memory, work_bytes
from mwc.runtime.spec import WhisperSpec
from mwc.runtime.step_calls import StepCalls
from mwc.runtime.step_inputs import wanted_of

Array = npt.NDArray[Any]


class Session:
    """One target of an artifact, loaded.

    Args:
        artifact: the artifact, opened.
        device: "auto", "cpu", "gpu", "gpu:1" for the second, or a target's name.
        threads: CPU threads; None for all that this process may use.
        n_windows: window slots to hold.
        n_rows: row slots to hold.
        laps: notes how long each stage takes: "device" (MAX itself, and what runs the graphs),
            "weights", "graphs", "caches"; None for one of its own.

    Raises:
        OptionError: `n_windows` or `n_rows` is below 1, `device` is unknown, or this process
            cannot have that many `threads`.
        TargetError: no target of the artifact can run here.
        ArtifactError: its files do not fit each other.
        MemoryShortage: its weights do not fit on the GPU, or the slots beside them.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        device: str = "auto",
        threads: int | None = None,
        n_windows: int = 1,
        n_rows: int = 1,
        laps: Laps | None = None,
    ) -> None:
        laps = laps or Laps()
        for name, value in (("n_windows", n_windows), ("n_rows", n_rows)):
            if value < 1:
                raise OptionError(f"{name} is {value}; it must be at least 1.")
        self._artifact = artifact
        device, index = parse_device(device)
        present = accelerators(artifact.manifest.targets, device, index)
        self._target = select_target(artifact, device, present.values())
        where = open_device(self._target, present, threads)
        laps.end("device")
        # MAX reads the weights where they are, so they are held as long as the graphs.
        self._weights = load_weights(artifact, self._target, where)
        laps.end("weights")
        graphs = load_graphs(artifact, self._target, where, self._weights)
        laps.end("graphs")
        sizes = {"windows": n_windows, "row_slots": n_rows}
        self._caller = GraphCaller(self._target, where, graphs, sizes)
        self._steps = StepCalls(self._caller, replays=self._target.device != "cpu")
        self._refuse_beyond_memory(sizes)
        laps.end("caches")

    @property
    def caller(self) -> GraphCaller:
        """How the entry points are called, for measuring them without what lies around."""
        return self._caller

    @property
    def device_graphs(self) -> Mapping[tuple[str, int, int], DeviceGraph]:
        """What steps are replayed from on a GPU, by entry point, rows and candidates."""
        return self._steps.device_graphs

    @property
    def spec(self) -> WhisperSpec:
        """The model's dimensions, audio constants and tokens."""
        return self._artifact.manifest.spec

    @property
    def target(self) -> TargetEntry:
        """The target that runs."""
        return self._target

    @property
    def stored(self) -> WeightsEntry:
        """The weight file that it runs with."""
        return stored_weights(self._artifact, self._target.precision)

    @property
    def drafts(self) -> bool:
        """Whether `steps` drafts tokens, of which fewer than all may count."""
        return any(spec.name == "fed" for spec in self._caller.graphs["steps"][0].outputs)

    @property
    def n_windows(self) -> int:
        """How many window slots there are."""
        return self._caller.sizes["windows"]

    @property
    def n_rows(self) -> int:
        """How many row slots there are."""
        return self._caller.sizes["row_slots"]

    @property
    def encoded_together(self) -> int:
        """How many windows to encode in one call at most."""
        return 1 if self._target.device == "cpu" else ENCODED_TOGETHER

    @property
    def heard_ahead(self) -> int:
        """How many files to hear before there is room for them."""
        return 0 if self._target.device == "cpu" else HEARD_AHEAD

    @property
    def heard_together(self) -> int:
        """How many files' samples to give `log_mel` or `vad` in one call at most."""
        return 1 if self._target.device == "cpu" else HEARD_TOGETHER

    def log_mel(self, samples: Float32) -> Float32:
        """Raw log10-mel frames: float32 [pieces, 160240] -> [pieces, 1000, n_mels]."""
        return self._caller.run("log_mel", {"samples": samples})["log_mel"]

    def vad(self, samples: Float32, states: Float32, counts: Int32) -> tuple[Float32, Float32]:
        """How likely frames hold speech, and the states after them; see `Decoder.vad`."""
        check_counts(counts, len(samples))
        inputs = {"samples": samples, "state": states, "counts": counts}
        outputs = self._caller.run("vad", inputs)
        return outputs["probabilities"], outputs["state"]

    def encode(
        self, log_mel: Float32, log_mel_max: Float32, n_frames: Int32, windows: Int32
    ) -> None:
        """Encode windows into their slots; see `Decoder.encode`."""
        check_range("window", windows, self.n_windows)
        inputs = {
            "log_mel": log_mel,
            "log_mel_max": log_mel_max,
            "n_frames": n_frames,
            "windows": windows,
        }
        self._caller.run("encode", inputs, fetch=())

    def check_memory(self, n_windows: int, n_rows: int) -> None:
        """Refuse slots that `reserve` would; see `Decoder.check_memory`."""
        sizes = self._at_least(n_windows, n_rows)
        if sizes != self._caller.sizes:
            self._refuse_beyond_memory(sizes)

    def reserve(self, n_windows: int, n_rows: int) -> None:
        """Have at least so many slots; what slots hold is lost if there were fewer.

        Raises:
            MemoryShortage: they do not fit. There are as many as before; if the memory was counted
                on and then not given, with nothing in them.
        """
        sizes = self._at_least(n_windows, n_rows)
        if sizes == self._caller.sizes:
            return
        self._refuse_beyond_memory(sizes)
        self._steps.forget()
        self._caller.resize(sizes)

    def _at_least(self, n_windows: int, n_rows: int) -> dict[str, int]:
        """As many slots as there are, or as are asked for where that is more."""
        asked = {"windows": n_windows, "row_slots": n_rows}
        return {size: max(held, asked[size]) for size, held in self._caller.sizes.items()}

    def _refuse_beyond_memory(self, sizes: Sizes) -> None:
        """Refuse slots, those that there are among them, that do not fit."""
        signatures = [signature for signature, _ in self._caller.graphs.values()]
        work = work_bytes(self.spec.model, min(sizes["windows"], self.encoded_together))
        needed = cache_bytes(signatures, sizes) - self._caller.held_bytes() + work
        check_memory(needed, self._caller.free_memory(), sizes, self._target.name)

    def prefill(
        self, rows: Sequence[PrefillRow], suppress: Float32, n_candidates: int = 1
    ) -> PrefillResult:
        """Run prompts and choose each row's first token; see `Decoder.prefill`."""
        check_distinct(np.array([row.row for row in rows]))
        found = [
            self._prefill(group, suppress, n_candidates) for group in in_groups(rows, PROMPT_TOKENS)
        ]
        return found[0] if len(found) == 1 else joined(found)

    def _prefill(
        self, rows: Sequence[PrefillRow], suppress: Float32, n_candidates: int
    ) -> PrefillResult:
        lengths = [len(row.tokens) for row in rows]
        starts = np.cumsum([0, *lengths[:-1]])
        last = starts + np.array(lengths) - 1
        sot = starts + np.array([row.sot_index for row in rows])
        ends = np.unique([sot, last])
        inputs = {
            **self._token_batch(rows),
            "ends": ends,
            "last": np.searchsorted(ends, last),
            "sot": np.searchsorted(ends, sot),
            "suppress": suppress,
            "rule_states": np.stack([row.rule_state for row in rows]),
            "temperatures": np.array([row.temperature for row in rows]),
            "uniforms": np.array([row.uniform for row in rows]),
            "ranks": np.arange(n_candidates),
        }
        outputs = self._caller.run("prefill", inputs)
        no_languages = np.zeros((len(rows), 0), np.float32)
        return PrefillResult(
            Choice(outputs["chosen"], outputs["logprobs"]),
            outputs["no_speech_probs"],
            outputs.get("language_probs", no_languages),
        )

    def step(self, batch: StepBatch, suppress: Float32, n_candidates: int = 1) -> Choice:
        """Feed one token to each row and choose the next; see `Decoder.step`."""
        self._check_tokens(batch.tokens, batch.rows, batch.windows)
        check_range("position", batch.positions, self.spec.model.n_text_ctx)
        return self._step("step", batch, suppress, n_candidates)

    def steps(self, batch: StepBatch, suppress: Float32) -> Choice:
        """Take several greedy steps; see `Decoder.steps`."""
        self._check_tokens(batch.tokens, batch.rows, batch.windows)
        last = self.spec.model.n_text_ctx - MOST_AHEAD + 1
        check_range("position", batch.positions, last)
        return self._step("steps", batch, suppress, 1).up_to(self.spec.tokens.eot)

    def _step(self, name: str, batch: StepBatch, suppress: Float32, n_candidates: int) -> Choice:
        """Run `step` or `steps`, from kept inputs where their shapes are right."""
        outputs = self._steps.run(name, batch, suppress, n_candidates)
        if outputs is not None:
            return _choice_of(outputs)
        zeros = np.zeros(len(batch.tokens), np.float32)
        inputs: dict[str, Array] = {
            "tokens": batch.tokens,
            "rows": batch.rows,
            "positions": batch.positions,
            "windows": batch.windows,
            "suppress": suppress,
            "rule_states": batch.rule_states,
            "temperatures": zeros if batch.temperatures is None else batch.temperatures,
            "uniforms": zeros if batch.uniforms is None else batch.uniforms,
        }
        if name == "step":
            inputs["ranks"] = np.arange(n_candidates)
        if any(spec.name == "wanted" for spec in self._caller.graphs[name][0].inputs):
            inputs["wanted"] = wanted_of(batch, n_candidates)
        return _choice_of(self._caller.run(name, inputs))

    def copy_rows(self, sources: Int32, targets: Int32, starts: Int32, ends: Int32) -> None:
        """Copy rows' caches to other rows; see `Decoder.copy_rows`."""
        check_range("source row", sources, self.n_rows)
        check_range("target row", targets, self.n_rows)
        check_range("end", ends, self.spec.model.n_text_ctx + 1)
        check_range("start", starts, self.spec.model.n_text_ctx + 1)
        check_distinct(targets)
        if set(sources.tolist()) & set(targets.tolist()):
            raise ValueError(f"rows {sources.tolist()} cannot be copied onto {targets.tolist()}")
        inputs = {"sources": sources, "targets": targets, "lengths": ends}
        on_host = self._caller.host_caches("copy_rows")
        if on_host:
            check_shapes(self._caller.graphs["copy_rows"][0], inputs)
            copies = np.stack((sources, targets, starts, ends), axis=1).tolist()
            copy_rows_on_host(on_host["self_k"], on_host["self_v"], copies)
            return
        self._caller.run("copy_rows", inputs, fetch=())

    def trace(self, log_mel: Float32, log_mel_max: Float32, n_frames: Int32) -> dict[str, Float32]:
        """Every stage of the encoder by name, [batch, …]; inputs as for `encode`."""
        inputs = {"log_mel": log_mel, "log_mel_max": log_mel_max, "n_frames": n_frames}
        return self._caller.run("trace", inputs)

    def logits(self, tokens: Sequence[int], window: int, row: int = 0) -> Float32:
        """Teacher-forced logits float32 [len(tokens), n_vocab], before any filter."""
        return self._caller.run("logits", self._forced(tokens, window, row))["logits"]

    def align(self, tokens: Sequence[int], window: int, row: int = 0) -> tuple[Float32, Float32]:
        """Teacher-forced pass for word times.

        Returns:
            scores float32 [alignment heads, len(tokens), 1500], before softmax, in the order of
            `TokenSpec.alignment_heads`; and logits float32 [len(tokens), n_vocab].
        """
        outputs = self._caller.run("align", self._forced(tokens, window, row))
        return outputs["scores"], outputs["logits"]

    def cross_kv(self, window: int) -> list[tuple[Float32, Float32]]:
        """Keys and values float32 [n_text_head, 1500, 64] of each decoder layer, of a window."""
        keys, values = (
            self._caller.cache_array(name)[:, window] for name in ("cross_k", "cross_v")
        )
        return cross_kv_of(keys, values, self.spec.model.n_audio_ctx)

    def _token_batch(self, rows: Sequence[PrefillRow]) -> dict[str, Int32]:
        """The flat batch of several prompts: each row's tokens together, positions ascending."""
        limit = self.spec.model.n_text_ctx
        for row in rows:
            if not 1 <= len(row.tokens) <= limit:
                raise ValueError(f"a prompt has {len(row.tokens)} tokens; 1 to {limit} fit")
            check_range("sot_index", np.array([row.sot_index]), len(row.tokens))
        lengths = [len(row.tokens) for row in rows]
        tokens = np.array([token for row in rows for token in row.tokens])
        row_slots = np.array([row.row for row in rows])
        window_slots = np.array([row.window for row in rows])
        self._check_tokens(tokens, row_slots, window_slots)
        return {
            "tokens": tokens,
            "rows": np.repeat(row_slots, lengths),
            "positions": np.concatenate([np.arange(n) for n in lengths]),
            "windows": np.repeat(window_slots, lengths),
        }

    def _forced(self, tokens: Sequence[int], window: int, row: int) -> dict[str, Int32]:
        no_rules = np.zeros(0, np.int32)
        return self._token_batch([PrefillRow(tuple(tokens), row, window, 0, no_rules)])

    def _check_tokens(self, tokens: Int32, rows: Int32, windows: Int32) -> None:
        """Tokens and slots exist, and no two rows share a slot."""
        check_range("token", tokens, self.spec.model.n_vocab)
        check_range("row", rows, self.n_rows)
        check_range("window", windows, self.n_windows)
        check_distinct(rows)


def _choice_of(outputs: Mapping[str, Array]) -> Choice:
    """What a step chose; of what was drafted, a row counts as far as it was fed what it chose."""
    chosen, logprobs, fed = outputs["chosen"], outputs["logprobs"], outputs.get("fed")
    if fed is None:
        taken = int(outputs["taken"][0]) if "taken" in outputs else None
        return Choice(chosen[:, :taken], logprobs[:, :taken])
    right = np.cumprod(chosen[:, :-1] == fed[:, 1:], axis=1)
    return Choice(chosen, logprobs, 1 + right.sum(axis=1, dtype=np.int32))

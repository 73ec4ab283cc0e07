"""A compiled target in memory, ready to run: the only file that touches MAX at run time.

A `Session` owns the models of the entry points, the mapped weights and the attention caches. Its
methods are the entry points with numpy in and out; `Decoder` (decoder.py) is the part of them that
decoding is written against.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mwc.runtime import scheduling
from mwc.runtime.artifact import (
    Artifact,
    TargetEntry,
    check_hashes,
    map_weights,
    missing_features,
    runs_on,
    select_target,
)
from mwc.runtime.caches import cross_kv_of
from mwc.runtime.checks import check_distinct, check_range, check_shapes
from mwc.runtime.decoder import (
    ENCODED_TOGETHER,
    STEPS_AHEAD,
    Choice,
    Float32,
    Int32,
    PrefillResult,
    PrefillRow,
    StepBatch,
)
from mwc.runtime.errors import ArtifactError, DeviceError, OptionError
from mwc.runtime.platform import free_memory
from mwc.runtime.slot_memory import cache_bytes, check_memory, work_bytes
from mwc.runtime.spec import GraphSignature, TensorSpec, WhisperSpec
from mwc.runtime.step_inputs import StepInputs
from mwc.runtime.threads import open_cpu

if TYPE_CHECKING:
    from max.driver import Buffer, Device
    from max.engine import Model as CompiledGraph

Array = npt.NDArray[Any]

WRITABLE = {"float32": np.float32, "int32": np.int32}
"""Input dtypes of the entry points and what carries them."""


class Session:
    """One target of an artifact, loaded.

    Args:
        artifact: the artifact, opened.
        device: "auto", "cpu", "gpu", "gpu:1" for the second, or a target's name.
        threads: CPU threads; None for all that this process may use.
        n_windows: window slots to hold.
        n_rows: row slots to hold.

    Raises:
        OptionError: `n_windows` or `n_rows` is below 1, `device` is unknown, or this process
            cannot have that many `threads`.
        TargetError: no target of the artifact can run here.
        ArtifactError: its files do not fit each other.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        device: str = "auto",
        threads: int | None = None,
        n_windows: int = 1,
        n_rows: int = 1,
    ) -> None:
        for name, value in (("n_windows", n_windows), ("n_rows", n_rows)):
            if value < 1:
                raise OptionError(f"{name} is {value}; it must be at least 1.")
        self._artifact = artifact
        device, index = parse_device(device)
        self._target = select_target(artifact, device, _accelerators(artifact, index))
        self._sizes = {"windows": n_windows, "row_slots": n_rows}
        cpu = open_cpu(threads)
        self._device = cpu if self._target.device == "cpu" else _open_accelerator(index)
        self._weights = _load_weights(artifact, self._target, self._device)
        self._graphs = _load_graphs(artifact, self._target, self._device, self._weights)
        self._caches: dict[tuple[str, tuple[int | str, ...]], Buffer] = {}
        self._step_inputs: dict[tuple[str, int, int], StepInputs] = {}
        self._suppress: tuple[Float32, Buffer] | None = None

    @property
    def spec(self) -> WhisperSpec:
        """The model's dimensions, audio constants and tokens."""
        return self._artifact.manifest.spec

    @property
    def target(self) -> TargetEntry:
        """The target that runs."""
        return self._target

    @property
    def n_windows(self) -> int:
        """How many window slots there are."""
        return self._sizes["windows"]

    @property
    def n_rows(self) -> int:
        """How many row slots there are."""
        return self._sizes["row_slots"]

    def log_mel(self, samples: Float32) -> Float32:
        """Raw log10-mel frames: float32 [pieces, 160240] -> [pieces, 1000, n_mels]."""
        return self._run("log_mel", {"samples": samples})["log_mel"]

    def vad(self, samples: Float32, state: Float32) -> tuple[Float32, Float32]:
        """How likely frames hold speech, and the state after them; see `Decoder.vad`."""
        outputs = self._run("vad", {"samples": samples, "state": state})
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
        self._run("encode", inputs, fetch=())

    def reserve(self, n_windows: int, n_rows: int) -> None:
        """Have at least so many slots; what slots hold is lost if there were fewer.

        Raises:
            MemoryShortage: they would not fit; those there are stay as they are.
        """
        asked = {"windows": n_windows, "row_slots": n_rows}
        sizes = {size: max(held, asked[size]) for size, held in self._sizes.items()}
        grown = {size for size, held in self._sizes.items() if held < sizes[size]}
        if not grown:
            return
        self._check_memory(sizes)
        self._sizes = sizes
        self._caches = {
            name: cache for name, cache in self._caches.items() if not grown & set(name[1])
        }

    def _check_memory(self, sizes: dict[str, int]) -> None:
        """Refuse slots whose caches, with the work on them, do not fit beside what is held."""
        signatures = [signature for signature, _ in self._graphs.values()]
        held = cache_bytes(signatures, self._sizes) if self._caches else 0
        work = work_bytes(self.spec.model, min(sizes["windows"], ENCODED_TOGETHER))
        needed = cache_bytes(signatures, sizes) - held + work
        check_memory(needed, self._free_memory(), sizes, self._target.name)

    def _free_memory(self) -> int | None:
        if self._target.device == "cpu":
            return free_memory()
        return int(self._device.stats["free_memory"])

    def prefill(
        self, rows: Sequence[PrefillRow], suppress: Float32, n_candidates: int = 1
    ) -> PrefillResult:
        """Run prompts and choose each row's first token; see `Decoder.prefill`."""
        lengths = [len(row.tokens) for row in rows]
        starts = np.cumsum([0, *lengths[:-1]])
        inputs = {
            **self._token_batch(rows),
            "last": np.array([s + n - 1 for s, n in zip(starts, lengths, strict=True)]),
            "sot": np.array([s + row.sot_index for s, row in zip(starts, rows, strict=True)]),
            "suppress": suppress,
            "rule_states": np.stack([row.rule_state for row in rows]),
            "temperatures": np.array([row.temperature for row in rows]),
            "uniforms": np.array([row.uniform for row in rows]),
            "ranks": np.arange(n_candidates),
        }
        outputs = self._run("prefill", inputs)
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
        last = self.spec.model.n_text_ctx - STEPS_AHEAD + 1
        check_range("position", batch.positions, last)
        return self._step("steps", batch, suppress, 1)

    def _step(self, name: str, batch: StepBatch, suppress: Float32, n_candidates: int) -> Choice:
        """Run `step` or `steps`, from kept inputs where that can be."""
        kept = self._kept_step_inputs(name, batch, suppress, n_candidates)
        if kept is not None:
            outputs = self._execute(name, kept)
            return Choice(outputs["chosen"], outputs["logprobs"])
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
        outputs = self._run(name, inputs)
        return Choice(outputs["chosen"], outputs["logprobs"])

    def copy_rows(self, sources: Int32, targets: Int32, lengths: Int32) -> None:
        """Copy rows' caches to other rows; see `Decoder.copy_rows`."""
        check_range("source row", sources, self.n_rows)
        check_range("target row", targets, self.n_rows)
        check_range("length", lengths, self.spec.model.n_text_ctx + 1)
        check_distinct(targets)
        if set(sources.tolist()) & set(targets.tolist()):
            raise ValueError(f"rows {sources.tolist()} cannot be copied onto {targets.tolist()}")
        inputs = {"sources": sources, "targets": targets, "lengths": lengths}
        self._run("copy_rows", inputs, fetch=())

    def trace(self, log_mel: Float32, log_mel_max: Float32, n_frames: Int32) -> dict[str, Float32]:
        """Every stage of the encoder by name, [batch, …]; inputs as for `encode`."""
        inputs = {"log_mel": log_mel, "log_mel_max": log_mel_max, "n_frames": n_frames}
        return self._run("trace", inputs)

    def logits(self, tokens: Sequence[int], window: int, row: int = 0) -> Float32:
        """Teacher-forced logits float32 [len(tokens), n_vocab], before any filter."""
        return self._run("logits", self._forced(tokens, window, row))["logits"]

    def align(self, tokens: Sequence[int], window: int, row: int = 0) -> tuple[Float32, Float32]:
        """Teacher-forced pass for word times.

        Returns:
            scores float32 [alignment heads, len(tokens), 1500], before softmax, in the order of
            `TokenSpec.alignment_heads`; and logits float32 [len(tokens), n_vocab].
        """
        outputs = self._run("align", self._forced(tokens, window, row))
        return outputs["scores"], outputs["logits"]

    def cross_kv(self, window: int) -> list[tuple[Float32, Float32]]:
        """Keys and values float32 [n_text_head, 1500, 64] of each decoder layer, of a window."""
        keys, values = (self._cache_array(name)[:, window] for name in ("cross_k", "cross_v"))
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

    def _run(
        self, name: str, inputs: Mapping[str, Array], *, fetch: tuple[str, ...] | None = None
    ) -> dict[str, Array]:
        """Execute an entry point: inputs by name, caches added, outputs by name as numpy.

        `fetch` names the outputs to bring to the host; None for all.
        """
        signature, _ = self._graphs[name]
        check_shapes(signature, inputs)
        buffers = {
            spec.name: self._input(spec, inputs[spec.name])
            for spec in signature.inputs
            if not spec.mutable
        }
        return self._execute(name, buffers, fetch=fetch)

    def _execute(
        self, name: str, buffers: "Mapping[str, Buffer]", *, fetch: tuple[str, ...] | None = None
    ) -> dict[str, Array]:
        """As `_run`, of buffers that fit."""
        signature, graph = self._graphs[name]
        arguments = [
            self._cache(spec) if spec.mutable else buffers[spec.name] for spec in signature.inputs
        ]
        try:
            results = scheduling.call(graph.execute, arguments)
        except (RuntimeError, ValueError) as error:
            elsewhere = "" if self._target.device == "cpu" else ", on the CPU if it fails again"
            raise DeviceError(
                f"{self._target.name} failed in {name}: {_first_line(error)}; load the model "
                f"again{elsewhere}."
            ) from error
        return {
            spec.name: result.to_numpy()
            for spec, result in zip(signature.outputs, results, strict=True)
            if fetch is None or spec.name in fetch
        }

    def _kept_step_inputs(
        self, name: str, batch: StepBatch, suppress: Float32, n_candidates: int
    ) -> "dict[str, Buffer] | None":
        """The inputs of a step in buffers of the step before; None where that cannot be.

        The same array of masks is taken to hold what it held before.
        """
        if self._target.device != "cpu":
            return None
        key = (name, len(batch.tokens), n_candidates)
        if key not in self._step_inputs:
            from max.driver import Buffer

            signature, _ = self._graphs[name]
            self._step_inputs[key] = StepInputs(signature, *key[1:], Buffer.from_numpy)
        buffers = self._step_inputs[key].fill(batch)
        if buffers is None:
            return None
        if self._suppress is None or self._suppress[0] is not suppress:
            spec = next(s for s in self._graphs["step"][0].inputs if s.name == "suppress")
            self._suppress = (suppress, self._input(spec, suppress))
        return {**buffers, "suppress": self._suppress[1]}

    def _input(self, spec: TensorSpec, value: Array) -> "Buffer":
        from max.driver import Buffer

        array = np.ascontiguousarray(value, WRITABLE[spec.dtype])
        return Buffer.from_numpy(array).to(self._device)

    def _cache(self, spec: TensorSpec) -> "Buffer":
        """The cache of that name, made at first use: zeros, so that no padding holds a NaN."""
        from max.driver import Buffer

        key = (spec.name, spec.shape)
        if key not in self._caches:
            shape = [size if isinstance(size, int) else self._sizes[size] for size in spec.shape]
            self._caches[key] = Buffer.zeros(shape, _max_dtype(spec.dtype), self._device)
            self._device.synchronize()  # it is filled behind our back; a graph may write sooner
        return self._caches[key]

    def _cache_array(self, name: str) -> Array:
        """A cache on the host, as float32 or bytes."""
        signature, _ = self._graphs["encode"]
        spec = next(spec for spec in signature.inputs if spec.name == name)
        return _to_array(self._cache(spec), spec.dtype)


def runnable_targets(artifact: Artifact) -> tuple[str, ...]:
    """Names of the targets that this machine can run, in the artifact's order."""
    present = _accelerators(artifact, None)
    return tuple(
        target.name
        for target in artifact.manifest.targets
        if any(runs_on(target, *accelerator) for accelerator in present)
        or (target.device == "cpu" and not missing_features(target))
    )


def parse_device(device: str) -> tuple[str, int | None]:
    """A device and which of several it is: "gpu:1" is ("gpu", 1), "auto" is ("auto", None).

    Raises:
        OptionError: what follows "gpu:" is no number.
    """
    kind, colon, index = device.partition(":")
    if kind != "gpu" or not colon:
        return device, None
    if not index.isdecimal():
        raise OptionError(f"device is {device!r}; the first GPU is gpu:0, the second gpu:1.")
    return kind, int(index)


def accelerator_names(artifact: Artifact) -> tuple[str, ...]:
    """ "gpu:0" and so on: every accelerator that the artifact has code for.

    Raises:
        TargetError: there is none.
    """
    names = tuple(
        f"gpu:{index}"
        for index, accelerator in enumerate(_accelerators(artifact, None))
        if any(runs_on(target, *accelerator) for target in artifact.manifest.targets)
    )
    if not names:
        select_target(artifact, "gpu", ())  # says what is missing
    return names


def _accelerators(artifact: Artifact, index: int | None) -> tuple[tuple[str, str], ...]:
    """(API, architecture) of the accelerators at hand, or of the one with that index.

    They are not asked for where no target needs one.
    """
    if all(target.device == "cpu" for target in artifact.manifest.targets):
        return ()
    from max.driver import Accelerator, accelerator_api, accelerator_count

    api, indices = accelerator_api(), range(accelerator_count())
    return tuple((api, Accelerator(i).architecture_name) for i in indices if index in (None, i))


def _open_accelerator(index: int | None) -> "Device":
    from max.driver import Accelerator

    return Accelerator() if index is None else Accelerator(index)


def _load_weights(artifact: Artifact, target: TargetEntry, device: "Device") -> dict[str, Any]:
    """The weights the target names, as MAX takes them: one copy for all graphs.

    On a CPU it is still backed by the mapped file; a GPU has it in its own memory.
    """
    from max.driver import Buffer
    from max.dtype import DType

    specs = {
        tensor.name: tensor
        for weights in artifact.manifest.weights
        if weights.precision == target.precision
        for tensor in weights.tensors
    }
    mapped = map_weights(artifact, target.precision)
    wanted = {name for graph in target.graphs for name in graph.weights}
    weights = {
        name: Buffer.from_numpy(mapped[name]).view(DType.bfloat16, mapped[name].shape)
        if specs[name].dtype == "bfloat16"
        else mapped[name]
        for name in sorted(wanted)
    }
    if target.device == "cpu":
        return weights
    moved = {
        name: (value if isinstance(value, Buffer) else Buffer.from_numpy(value)).to(device)
        for name, value in weights.items()
    }
    device.synchronize()
    return moved


def _load_graphs(
    artifact: Artifact, target: TargetEntry, device: "Device", weights: dict[str, Any]
) -> "dict[str, tuple[GraphSignature, CompiledGraph]]":
    from max.engine import InferenceSession, read

    mef = artifact.file(target.mef)
    check_hashes(artifact, paths=[target.mef])  # MAX may crash on a damaged one
    remedy = f"convert {artifact.manifest.provenance.source} again"
    try:
        session = InferenceSession(devices=[device])
        graphs = session.init_all(read(mef), weights_registry=weights)
    except (RuntimeError, ValueError) as error:
        raise ArtifactError(f"{mef} does not load: {_first_line(error)}; {remedy}.") from error
    missing = [graph.name for graph in target.graphs if graph.name not in graphs]
    if missing:
        raise ArtifactError(f"{mef} lacks the graphs {', '.join(missing)}; {remedy}.")
    return {graph.name: (graph, graphs[graph.name]) for graph in target.graphs}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no reason given"


def _max_dtype(dtype: str) -> Any:
    from max.dtype import DType

    kinds: dict[str, Callable[[], Any]] = {
        "float32": lambda: DType.float32,
        "bfloat16": lambda: DType.bfloat16,
        "float16": lambda: DType.float16,
        "uint8": lambda: DType.uint8,
    }
    return kinds[dtype]()


def _to_array(buffer: "Buffer", dtype: str) -> Array:
    from max.driver import CPU
    from max.dtype import DType

    host = buffer.to(CPU())
    if dtype != "bfloat16":
        values: Array = host.to_numpy()
        return values if dtype == "uint8" else values.astype(np.float32)
    bits = host.view(DType.uint16, host.shape).to_numpy().astype(np.uint32) << 16
    widened: Array = bits.view(np.float32)
    return widened

"""What `gpu.py` measures, a section each: every function takes a `Run` and returns JSON values."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from mwc.runtime import Model, Transcript, load
from mwc.runtime.artifact import open_artifact
from mwc.runtime.bench_cases import ITEM_BYTES, POSITION, PRECISION_BYTES
from mwc.runtime.decoder import PIECE_SAMPLES, STEPS_AHEAD
from mwc.runtime.device_graph import DeviceGraph
from mwc.runtime.floor import Rates, Work, decode_work, encode_work, log_mel_work
from mwc.runtime.rules import rule_state, suppress_mask
from mwc.runtime.session import Session
from mwc.runtime.spec import ModelSpec

WARM_UP, LEAST_RUNS, SECONDS = 3, 6, 0.4
"""Runs that do not count; then as many as fit into so many seconds, at least so many."""

SEED = 20
"""Of the random data: never zeros, which GPUs are quicker with."""

WINDOW_SAMPLES = 480_000
"""Of 30 s."""

BATCHES = (3, 8, 16, 32)
"""Companies that a clip's transcript must not depend on."""

STATUS = Path("/proc/self/status")
"""Where Linux tells a process its memory."""


@dataclass(frozen=True)
class Run:
    """What to measure.

    Attributes:
        artifacts: the models, compiled for the device.
        checkpoint: what the first was made from, or none.
        device: as for `load`.
        rows: batch sizes.
        audio: a clip of speech.
        clips: more clips, for what must not depend on company and for the soak.
        tokens: how many are decoded of a window of 30 s.
        rates: the device's arithmetic and bandwidth at most, for the floors; None for no floors.
        soak_seconds: how long the soak lasts.
    """

    artifacts: tuple[Path, ...]
    checkpoint: str | None
    device: str
    rows: tuple[int, ...]
    audio: Path
    clips: tuple[Path, ...]
    tokens: int
    rates: Rates | None
    soak_seconds: float


def probe(run: Run) -> dict[str, Any]:
    """The device and what it has; every artifact loads on it and says something."""
    found: dict[str, Any] = {}
    for path in run.artifacts:
        begin = time.perf_counter()
        model = load(path, device=run.device)
        loaded = time.perf_counter() - begin
        device = model.session.caller.device
        found[path.name] = {
            "target": model.target,
            "device": device.api if device.is_host else f"{device.api} {device.model_name}",
            "memory": {name: int(value) for name, value in device.stats.items()},
            "load seconds": round(loaded, 3),
            "text": model.transcribe(run.audio, temperature=0.0).text,
        }
    return found


def parity(run: Run) -> dict[str, Any]:
    """Every stage and the greedy tokens of the first artifact against its checkpoint."""
    from mwc.compiler import verify_artifact

    if run.checkpoint is None:
        return {"left out": "no checkpoint was given"}
    path = run.artifacts[0]
    report = verify_artifact(path, run.checkpoint)
    return {
        path.name: {
            "targets": report.targets,
            "reference": report.reference,
            "ok": report.ok,
            "tokens equal": f"{report.tokens_equal} of {report.tokens_compared}",
            "errors": {s.name: (s.max_abs, s.max_rel, s.bound) for s in report.stages},
        }
    }


def encoder(run: Run) -> dict[str, Any]:
    """Log-mel, and the encoder with cross-attention keys and values: executed and replayed."""
    found = {}
    for path, session in _sessions(run):
        model = session.spec.model
        for rows in run.rows:
            session.reserve(rows, rows)
            item, cache = _item_bytes(session)
            mel = _times(session, "log_mel", _mel_inputs(session, rows))
            work = _repeat(log_mel_work(model), rows)
            found[f"{path.name}, log-mel, {rows} windows"] = _told(run, mel, work)
            encoded = _times(session, "encode", _encode_inputs(session, rows))
            one = encode_work(model, item, cache)
            more = encode_work(model, 0.0, cache)  # weights are read once for all windows
            work = one + _repeat(more, rows - 1)
            found[f"{path.name}, encode, {rows} windows"] = _told(run, encoded, work)
    return found


def step(run: Run) -> dict[str, Any]:
    """Greedy steps, four to a call, each row with a window of its own."""
    found = {}
    for path, session in _sessions(run):
        item, cache = _item_bytes(session)
        for rows in run.rows:
            session.reserve(rows, rows)
            session.caller.run("encode", _encode_inputs(session, rows), fetch=())
            times = _times(session, "steps", _step_inputs(session, rows))
            works = [
                decode_work(session.spec.model, item, cache, rows=rows, new=1, past=POSITION + i)
                for i in range(STEPS_AHEAD)
            ]
            told = _told(run, times, sum(works, Work(0, 0)))
            told["ms of one step"] = round(told["ms"] / STEPS_AHEAD, 4)
            found[f"{path.name}, {STEPS_AHEAD} steps, {rows} rows"] = told
    return found


def windows(run: Run) -> dict[str, Any]:
    """Windows of 30 s from samples to text, so many at a time and so many tokens each."""
    found: dict[str, Any] = {}
    options = {"without_timestamps": True, "sample_len": run.tokens}
    for path in run.artifacts:
        model = load(path, device=run.device)
        samples = np.resize(_samples(run.audio), WINDOW_SAMPLES)
        for rows in run.rows:
            many = partial(_transcribe, model, [samples] * rows, rows, **options)
            transcripts = many()
            seconds = median(_timed(many) for _ in range(3))
            n_windows = sum(len(transcript.windows) for transcript in transcripts)
            tokens = sum(len(s.tokens) for transcript in transcripts for s in transcript.segments)
            found[f"{path.name}, {rows} at a time"] = {
                "ms": round(1e3 * seconds, 1),
                "real-time factor": round(30 * n_windows / seconds, 1),
                "tokens a window": round(tokens / n_windows, 1),
                "texts": len({transcript.text for transcript in transcripts}),
            }
        refused = {str(k): g.refusal for k, g in model.session.device_graphs.items() if g.refusal}
        found[f"{path.name}, steps that are not replayed"] = refused
        del model
        gc.collect()
    return found


def transformers(run: Run) -> dict[str, Any]:
    """transformers with random weights of the same sizes: windows of 30 s, as many tokens each.

    Half precision on a GPU, torch's scaled dot-product attention, greedy, from log-mel to tokens.
    """
    import torch

    cuda = run.device.startswith("gpu")
    place, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    finish = torch.cuda.synchronize if cuda else lambda: None
    found = {}
    for path in run.artifacts:
        dims = open_artifact(path).manifest.spec.model
        theirs = _their_model(dims, place, dtype)
        for rows in run.rows:
            batch = torch.randn(rows, dims.n_mels, 2 * dims.n_audio_ctx, device=place, dtype=dtype)

            def generate(n: int, batch: Any = batch, theirs: Any = theirs) -> None:
                with torch.inference_mode():
                    start = torch.full((len(batch), 1), 50258, device=place)
                    theirs.generate(
                        batch, decoder_input_ids=start, do_sample=False, num_beams=1,
                        min_new_tokens=n, max_new_tokens=n,
                    )  # fmt: skip

            generate(3)
            seconds = _timed(partial(generate, run.tokens), finish)
            found[f"{path.name}, {rows} at a time"] = {
                "ms": round(1e3 * seconds, 1),
                "real-time factor": round(30 * rows / seconds, 1),
            }
        del theirs
        gc.collect()
    return found


def company(run: Run) -> dict[str, Any]:
    """Clips in batches of many sizes, shuffled: transcripts unlike those in batches of two.

    Unlike in anything: texts, times, tokens or their log-probabilities.
    """
    model = load(run.artifacts[0], device=run.device)
    clips = [_samples(path) for path in run.clips]
    seconds = sum(map(len, clips)) / 16_000
    alone = _transcribe(model, clips, 2)
    found: dict[str, Any] = {"clips": len(clips), "seconds": round(seconds, 1)}
    for batch in BATCHES:
        order = np.random.default_rng(batch).permutation(len(clips))
        begin = time.perf_counter()
        together = _transcribe(model, [clips[i] for i in order], batch)
        took = time.perf_counter() - begin
        differ = sum(a != alone[i] for a, i in zip(together, order, strict=True))
        found[f"batches of {batch}"] = {
            "transcripts that differ": differ,
            "real-time factor": round(seconds / took, 1),
        }
    return found


def soak(run: Run) -> dict[str, Any]:
    """Decode for a while in batches of all sizes: texts as alone, and memory that does not grow."""
    model = load(run.artifacts[0], device=run.device)
    clips = [_samples(path) for path in run.clips or (run.audio,)]
    alone = [transcript.text for transcript in _transcribe(model, clips, 2)]
    rng = np.random.default_rng(SEED)
    until = time.perf_counter() + run.soak_seconds
    done, other, memories = 0, 0, []
    while time.perf_counter() < until or len(memories) < 3:
        rows = int(rng.choice([1, *run.rows, *BATCHES])) + 1
        chosen = rng.integers(0, len(clips), int(rng.integers(1, 3 * rows + 1)))
        transcripts = _transcribe(model, [clips[i] for i in chosen], rows)
        other += sum(t.text != alone[i] for t, i in zip(transcripts, chosen, strict=True))
        done += len(chosen)
        gc.collect()
        free = model.session.caller.device.stats.get("free_memory", 0)
        memories.append((_resident_mib(), int(free) >> 20))
    third = max(len(memories) // 3, 1)
    return {
        "clips": done,
        "seconds": run.soak_seconds,
        "texts unlike those in batches of two": other,
        "host MiB after a third, at the end": (memories[third - 1][0], memories[-1][0]),
        "free device MiB after a third, at the end": (memories[third - 1][1], memories[-1][1]),
    }


SECTIONS: dict[str, Callable[[Run], dict[str, Any]]] = {
    "probe": probe,
    "parity": parity,
    "encoder": encoder,
    "step": step,
    "windows": windows,
    "transformers": transformers,
    "company": company,
    "soak": soak,
}
"""In the order of what is wanted first."""


def _transcribe(
    model: Model, clips: Sequence[Any], at_a_time: int, **options: Any
) -> list[Transcript]:
    options = {"language": "en", "temperature": 0.0, **options}
    return list(model.transcribe_many(clips, batch_size=at_a_time, **options))


def _samples(path: Path) -> Any:
    """A file's samples, so that decoding it is not measured."""
    from mwc.runtime.audio import open_audio

    return np.concatenate(list(open_audio(path).blocks()))


def _sessions(run: Run) -> Iterator[tuple[Path, Session]]:
    """Each artifact's session, one after the other."""
    for path in run.artifacts:
        session = Session(open_artifact(path), device=run.device)
        yield path, session
        del session
        gc.collect()


def _their_model(dims: ModelSpec, place: str, dtype: Any) -> Any:
    """transformers' Whisper of the same sizes, weights as they are initialised."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    end = 50257
    config = WhisperConfig(
        vocab_size=dims.n_vocab,
        num_mel_bins=dims.n_mels,
        encoder_layers=dims.n_audio_layer,
        encoder_attention_heads=dims.n_audio_head,
        encoder_ffn_dim=dims.n_audio_mlp,
        decoder_layers=dims.n_text_layer,
        decoder_attention_heads=dims.n_text_head,
        decoder_ffn_dim=dims.n_text_mlp,
        d_model=dims.n_audio_state,
        max_source_positions=dims.n_audio_ctx,
        max_target_positions=dims.n_text_ctx,
        decoder_start_token_id=end + 1,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), end),
    )
    with torch.device(place), _default_dtype(dtype):
        model = WhisperForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    for name in ("suppress_tokens", "begin_suppress_tokens", "forced_decoder_ids"):
        setattr(model.generation_config, name, None)
    return model.eval()


@contextmanager
def _default_dtype(dtype: Any) -> Iterator[None]:
    """What torch makes tensors of, for a while."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _resident_mib() -> int:
    """Memory that this process holds."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) >> 10


def _item_bytes(session: Session) -> tuple[float, float]:
    """Bytes of a weight, and of a key or value."""
    return PRECISION_BYTES[session.target.precision], ITEM_BYTES[session.target.kv_dtype]


def _repeat(work: Work, times: int) -> Work:
    return Work(work.operations * times, work.bytes * times)


def _mel_inputs(session: Session, windows: int) -> dict[str, Any]:
    rng = np.random.default_rng(SEED)
    samples = rng.normal(0, 0.1, (3 * windows, PIECE_SAMPLES)).astype(np.float32)
    return {"samples": samples}


def _encode_inputs(session: Session, windows: int) -> dict[str, Any]:
    rng = np.random.default_rng(SEED)
    shape = (windows, 2 * session.spec.model.n_audio_ctx, session.spec.model.n_mels)
    return {
        "log_mel": rng.uniform(-6, 2, shape).astype(np.float32),
        "log_mel_max": np.full(windows, 2, np.float32),
        "n_frames": np.full(windows, shape[1], np.int32),
        "windows": np.arange(windows, dtype=np.int32),
    }


def _step_inputs(session: Session, rows: int) -> dict[str, Any]:
    tokens = session.spec.tokens
    state = rule_state([tokens.timestamp_begin, 1000], True, tokens, None)
    slots = np.arange(rows, dtype=np.int32)
    return {
        "tokens": np.full(rows, 1000, np.int32),
        "rows": slots,
        "positions": np.full(rows, POSITION, np.int32),
        "windows": slots,
        "suppress": suppress_mask(session.spec),
        "rule_states": np.repeat(state[None], rows, axis=0),
        "temperatures": np.zeros(rows, np.float32),
        "uniforms": np.zeros(rows, np.float32),
    }


def _times(session: Session, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of a call whose inputs are on the device: executed, and on a GPU replayed."""
    caller = session.caller
    signature, graph = caller.graphs[name]
    buffers = {spec.name: caller.upload(spec, inputs[spec.name]) for spec in signature.inputs
               if not spec.mutable}  # fmt: skip
    arguments = caller.arguments(signature, buffers)

    def execute() -> None:
        graph.execute(*arguments)
        caller.synchronize()

    found: dict[str, Any] = {"executed ms": _milliseconds(execute)}
    if session.target.device != "cpu":
        kept = DeviceGraph(graph, 1 << 20, arguments)

        def replay() -> None:
            kept.run()
            caller.synchronize()

        found["replayed ms"] = _milliseconds(replay)
        if kept.refusal:
            del found["replayed ms"]
            found["refusal"] = kept.refusal
        kept.release()
    return found


def _told(run: Run, times: dict[str, Any], work: Work) -> dict[str, Any]:
    """The shorter of the times, beside the least that the device's rates allow."""
    best = min(value for name, value in times.items() if name.endswith("ms"))
    told = {"ms": best, **times}
    if run.rates is not None:
        floor = 1e3 * run.rates.seconds(work)
        told |= {"floor ms": round(floor, 4), "ratio": round(best / floor, 2)}
    return told


def _milliseconds(call: Callable[[], object]) -> float:
    for _ in range(WARM_UP):
        call()
    seconds: Sequence[float] = []
    until = time.perf_counter() + SECONDS
    while len(seconds) < LEAST_RUNS or time.perf_counter() < until:
        seconds = [*seconds, _timed(call)]
    return round(1e3 * median(seconds), 4)


def _timed(call: Callable[[], object], finish: Callable[[], object] = lambda: None) -> float:
    begin = time.perf_counter()
    call()
    finish()
    return time.perf_counter() - begin

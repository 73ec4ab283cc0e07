"""Stand-ins for what the command calls: a model, a compiler."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mwc.runtime.bench import BenchReport, ClipTime, Stage
from mwc.runtime.bench_cases import ENCODE, VAD, step_name
from mwc.runtime.errors import AudioError, MwcError
from mwc.runtime.floor import Rates
from mwc.runtime.progress import Progress, ProgressEvent, silent
from mwc.runtime.transcript import Segment, Transcript

SEGMENT = Segment(
    id=0,
    seek=0,
    start=0.0,
    end=2.5,
    text=" Grüße,",
    tokens=(1, 2),
    temperature=0.0,
    avg_logprob=-0.25,
    compression_ratio=1.0,
    no_speech_prob=0.125,
)
TRANSCRIPT = Transcript(
    text=" Grüße, Welt.",
    language="de",
    duration=4.0,
    segments=(SEGMENT, replace(SEGMENT, id=1, start=2.5, end=4.0, text=" Welt.")),
)


@dataclass
class StandInSource:
    """An opened audio: what was opened, and what was wrong with it."""

    opened: Any
    warnings: Sequence[str] = ()


@dataclass
class StandInModel:
    """Answers every audio with its transcript, or with the error planned for it."""

    transcript: Transcript = TRANSCRIPT
    errors: dict[str, BaseException] = field(default_factory=dict)
    late: Sequence[str] = ()
    left_out: Sequence[str] = ()
    warnings: Sequence[str] = ()
    calls: list[tuple[Any, dict[str, Any]]] = field(default_factory=list)
    loads: list[tuple[Path, dict[str, Any]]] = field(default_factory=list)

    def load(self, path: Path, **options: Any) -> "StandInModel":
        self.loads.append((path, options))
        return self

    @contextmanager
    def load_fleet(self, path: Path, devices: str, threads: int | None) -> "Iterator[StandInModel]":
        yield self.load(path, device=devices, threads=threads)

    def open_audio(self, source: Any, *, to_read: bool = False) -> StandInSource:
        return StandInSource(source, self.warnings)

    def transcribe(
        self, audio: StandInSource, *, progress: Progress = silent, **options: Any
    ) -> Transcript:
        self.calls.append((audio.opened, options))
        progress(ProgressEvent("transcribe", 4.0, 4.0, "seconds"))
        if audio.opened in self.errors:
            raise self.errors[audio.opened]
        return self.transcript

    def stream(
        self, audio: StandInSource, *, progress: Progress = silent, **options: Any
    ) -> "StandInStream":
        return StandInStream(self, lambda: self.transcribe(audio, progress=progress, **options))

    def transcribe_as_completed(
        self, audios: Iterable[Any], *, progress: Progress = silent, **options: Any
    ) -> Iterator[tuple[int, Transcript | AudioError]]:
        """Files in their order, but for those in `late`, which come last."""
        late: list[tuple[int, Any]] = []
        for number, audio in enumerate(audios):
            if audio in self.late:
                late.append((number, audio))
            else:
                yield number, self._found(audio, progress, options)
        for number, audio in late:
            yield number, self._found(audio, progress, options)

    def _found(
        self, audio: Any, progress: Progress, options: dict[str, Any]
    ) -> Transcript | AudioError:
        try:
            return self.transcribe(self.open_audio(audio), progress=progress, **options)
        except AudioError as error:
            return error


@dataclass
class StandInStream:
    """Does what it does when its first segment is asked for."""

    model: StandInModel
    transcribe: Callable[[], Transcript]

    def __iter__(self) -> Iterator[Segment]:
        yield from self.transcribe().segments

    def transcript(self) -> Transcript:
        return replace(self.model.transcript, warnings=tuple(self.model.warnings))


@dataclass
class StandInReport:
    """A parity report."""

    ok: bool = True

    def summary(self) -> list[str]:
        return ["f32 matches numpy" if self.ok else "f32 DOES NOT MATCH numpy", "two lines"]

    def to_json(self) -> dict[str, Any]:
        return {"ok": self.ok}


@dataclass
class StandInResult:
    """What a conversion gives."""

    artifact: Path
    report: StandInReport | None
    notes: Sequence[str] = ("alignment heads derived",)
    seconds: dict[str, float] = field(default_factory=lambda: {"weights": 1.0, "compile": 2.5})


@dataclass
class StandInCompiler:
    """`mwc.compiler`'s functions, remembering what they were asked."""

    report: StandInReport | None = field(default_factory=StandInReport)
    error: MwcError | BaseException | None = None
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    def convert(self, source: Any, out: Path, options: Any, progress: Progress) -> StandInResult:
        self.calls.append(("convert", source, out, options))
        progress(ProgressEvent("weights", 1, 2, "bytes"))
        if self.error is not None:
            raise self.error
        out.mkdir(parents=True, exist_ok=True)
        (out / "manifest.json").write_text("{}")
        return StandInResult(out, self.report)

    def add_target(self, path: Path, target: str, progress: Progress) -> tuple[str, ...]:
        self.calls.append(("add_target", path, target))
        return ("it is slow.",) if target == "cpu" else ()

    def verify_artifact(
        self, path: Path, against: str, *, progress: Progress, **options: Any
    ) -> StandInReport:
        self.calls.append(("verify", path, against, options))
        assert self.report is not None
        return self.report


def no_audio(name: str) -> AudioError:
    """The error of a file that is no audio."""
    return AudioError(f"{name} is not audio")


BENCH_REPORT = BenchReport(
    artifact="a/",
    target="cpu-host",
    precision="int8",
    kv_dtype="float16",
    cpu="A CPU",
    threads=2,
    load_seconds=0.25,
    load_stages={"artifact": 0.01, "device": 0.15, "graphs": 0.09},
    load_floor=0.005,
    rates=Rates(200e9, 40e9),
    stages=(
        Stage(ENCODE, 0.1, 0.12, 10, 0.05),
        Stage(step_name(8), 0.004, 0.005, 250, 0.002, tokens=8),
        Stage(VAD, 0.02, 0.021, 50, None),
    ),
    clip=ClipTime("talk.wav", 10.0, 0.5, 3, 1, 40, 0.1),
    memory={
        "peak": 300.0,
        "private": 100.0,
        "mapped": 150.0,
        "weights": 60.0,
        "caches": 40.0,
    },
)
"""What `mwc bench` might measure."""

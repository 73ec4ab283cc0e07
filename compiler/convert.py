"""The main path: checkpoint -> spec -> weights -> compiled graphs -> verified artifact."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mwc.compiler.calibrate import Recording, calibrate, read_recordings
from mwc.compiler.checkpoint import Checkpoint, open_checkpoint
from mwc.compiler.checkpoint_tensors import check_tensors
from mwc.compiler.compile import CompileJob, compile_target
from mwc.compiler.config import read_spec
from mwc.compiler.convert_options import DEFAULTS, ConvertOptions, check_options, check_precision
from mwc.compiler.parity import ParityReport, merge_reports
from mwc.compiler.reference import Reference, open_reference
from mwc.compiler.target import Target, has_vnni, parse_target
from mwc.compiler.vad_weights import installed_detector
from mwc.compiler.vocabulary import write_vocabulary
from mwc.compiler.weight_rules import DRAFT
from mwc.compiler.weights import AUDIO_CACHES, fit_without_vnni, mapped_weights
from mwc.runtime import artifact_edit
from mwc.runtime.artifact import (
    PARITY_NAME,
    Artifact,
    Provenance,
    TargetEntry,
    WeightsEntry,
    map_weights,
    open_artifact,
)
from mwc.runtime.artifact_write import ArtifactWriter, Contents, write_weights
from mwc.runtime.audio import read_samples
from mwc.runtime.devices import runnable_targets
from mwc.runtime.errors import OptionError, TargetError, VerificationError
from mwc.runtime.progress import Progress, silent
from mwc.runtime.spec import GraphSignature, WhisperSpec

SAMPLE = Path(__file__).resolve().parent / "data" / "sample.flac"
"""The speech that a conversion is verified on; scripts/make_sample.sh makes it."""


@dataclass(frozen=True)
class ConvertResult:
    """What a conversion made.

    Attributes:
        artifact: its folder.
        report: the parity report; None where it was not verified.
        seconds: by part: "checkpoint", "weights", "compile <target>", "verify".
        notes: what was derived or is unusual about the checkpoint, for people.
    """

    artifact: Path
    report: ParityReport | None
    seconds: dict[str, float]
    notes: tuple[str, ...]


@dataclass
class Stopwatch:
    """Seconds by part of the work."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time the block under this name."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - begin


def convert(
    source: str | Path,
    out: str | Path,
    options: ConvertOptions = DEFAULTS,
    progress: Progress = silent,
) -> ConvertResult:
    """Convert a checkpoint into an artifact.

    The artifact appears under `out` complete, or not at all.

    Args:
        source: a Hub id, a folder, a file, or `pkg:NAME`; see `open_checkpoint`.
        out: the artifact's folder; missing parents are made.
        options: how.
        progress: told of every stage.

    Raises:
        OptionError: an option is not allowed.
        CheckpointError: the source cannot be found, read, or understood; or the speech detector's
            package is not installed.
        CompileError: MAX could not compile it.
        VerificationError: it does not compute what the checkpoint computes.
        TargetError: it is for a GPU, and the driver of this machine's does not answer.
        ArtifactError: `out` cannot be written, or somebody else is writing it.
    """
    targets = check_options(options)
    recordings = () if options.calibrate is None else read_recordings(options.calibrate)
    watch = Stopwatch()
    with watch.part("checkpoint"):
        checkpoint = open_checkpoint(
            source, revision=options.revision, tokenizer=options.tokenizer, progress=progress
        )
        spec, notes = read_spec(checkpoint)
        check_tensors(checkpoint, spec)
        detector = installed_detector().entry

    entries = [_entry_to_be(target, options.precision) for target in targets]
    verified = runnable_targets(entries) if options.verify else ()
    with ArtifactWriter(out, force=options.force) as writer, ThreadPoolExecutor(1) as aside:
        # The reference is made ready (transformers imported, above all) while MAX compiles.
        reference = aside.submit(open_reference, checkpoint, spec) if verified else None
        with watch.part("weights"):
            weights = _write_weights(writer, checkpoint, spec, options, targets, progress)
        for i, target in enumerate(targets):
            with watch.part(f"compile {target.name}"):
                path = str(writer.path(entries[i].mef))
                job = CompileJob(spec, options.precision, target, path, weights=weights.tensors)
                entries[i] = replace(entries[i], graphs=compile_target(job, progress))
        origin = _provenance(checkpoint, options, notes)
        contents = Contents(spec, tuple(entries), (weights,), detector, origin)
        report = None
        if reference is not None:
            report, more = _verify_new(
                writer.preview(contents), verified, reference, options, recordings, watch, progress
            )
            notes += more
            writer.path(PARITY_NAME).write_text(json.dumps(report.to_json(), indent=1) + "\n")
        elif recordings:
            notes += ("word errors are not measured: no target of it can run on this machine",)
        notes += tuple(
            f"{entry.name} is not verified: it cannot run on this machine"
            for entry in entries
            if options.verify and entry.name not in verified
        )
        contents = replace(contents, provenance=_provenance(checkpoint, options, notes))
        written = writer.commit(contents, progress)
    return ConvertResult(written.path, report, watch.seconds, notes)


def _write_weights(
    writer: ArtifactWriter,
    checkpoint: Checkpoint,
    spec: WhisperSpec,
    options: ConvertOptions,
    targets: tuple[Target, ...],
    progress: Progress,
) -> WeightsEntry:
    """Write the vocabulary and the weights, as these targets multiply them."""
    write_vocabulary(checkpoint.vocabulary, writer.path("tokenizer/x").parent)
    weights = mapped_weights(
        checkpoint.tensors,
        spec,
        options.precision,
        vnni=all(has_vnni(target) for target in targets),
        drafts=options.precision == "f32" and any(target.device == "cpu" for target in targets),
    )
    path = f"weights/{options.precision}.safetensors"
    return WeightsEntry(
        options.precision, path, write_weights(writer.path(path), weights, progress)
    )


def _entry_to_be(target: Target, precision: str) -> TargetEntry:
    """What the manifest will say of a target, but for its graphs."""
    return target_entry(target, precision, f"targets/{target.name}/whisper.mef", ())


def _verify_new(
    artifact: Artifact,
    names: tuple[str, ...],
    reference: "Future[Reference]",
    options: ConvertOptions,
    recordings: tuple[Recording, ...],
    watch: Stopwatch,
    progress: Progress,
) -> tuple[ParityReport, tuple[str, ...]]:
    """Compare what was just compiled with its checkpoint, and count its errors on recordings.

    Returns:
        The report, and notes for people.

    Raises:
        VerificationError: it does not compute what the checkpoint computes.
    """
    with watch.part("verify"):
        report = _verify(artifact, names, reference.result(), progress)
    notes = _refuse_if_wrong(report, options)
    if recordings:
        with watch.part("calibrate"):
            report = replace(report, calibration=calibrate(artifact, recordings, progress))
    return report, notes


def verify_artifact(
    path: str | Path,
    against: str | Path,
    *,
    revision: str | None = None,
    tokenizer: str | None = None,
    progress: Progress = silent,
) -> ParityReport:
    """Compare an artifact with a checkpoint: every target of it that can run on this machine.

    Raises:
        TargetError: none can.
        VerificationError: they are not even the same shape of model.
        ArtifactError, CheckpointError: one of them cannot be read or run.
    """
    artifact = open_artifact(path)
    checkpoint = open_checkpoint(against, revision=revision, tokenizer=tokenizer, progress=progress)
    spec, _ = read_spec(checkpoint)
    difference = _first_difference(artifact.manifest.spec, spec)
    if difference is not None:
        raise VerificationError(
            f"{path} was made from another kind of model than {against}: {difference}."
        )
    check_tensors(checkpoint, spec)
    names = runnable_targets(artifact.manifest.targets)
    if not names:
        raise TargetError(f"{path} holds no target that can run on this machine.")
    return _verify(artifact, names, open_reference(checkpoint, spec), progress)


def add_target(path: str | Path, target: str, progress: Progress = silent) -> tuple[str, ...]:
    """Compile an artifact for one more target, from the artifact alone.

    Returns:
        Sentences about what the target does less well than one that was converted for.

    Raises:
        OptionError: the target is unknown, or already there.
        ArtifactError: the artifact cannot be opened or changed.
        CompileError: MAX could not compile it.
    """
    parsed = parse_target(target)
    artifact = open_artifact(path)
    held = [entry.name for entry in artifact.manifest.targets]
    if parsed.name in held:
        raise OptionError(
            f"{path} already holds the target {parsed.name}; it has {', '.join(held)}."
        )
    weights = artifact.manifest.weights[0]
    precision = weights.precision
    check_precision(parsed, precision)
    if precision == "int8" and not has_vnni(parsed):
        _check_fit(artifact, parsed)
    with TemporaryDirectory(prefix="mwc-target-") as folder:
        mef = Path(folder, "whisper.mef")
        spec = artifact.manifest.spec
        job = CompileJob(spec, precision, parsed, str(mef), weights=weights.tensors)
        signatures = compile_target(job, progress)
        entry = target_entry(parsed, precision, "", signatures)
        artifact_edit.add_target(path, entry, mef)
    drafts = any(tensor.name.startswith(DRAFT) for tensor in weights.tensors)
    if parsed.device == "cpu" and precision == "f32" and not drafts:
        return (
            f"{path} has no int8 copies of its weights for {parsed.name} to draft tokens by, which "
            "decodes faster; they come with converting the checkpoint for all targets at once.",
        )
    return ()


def _check_fit(artifact: Artifact, target: Target) -> None:
    """Refuse a CPU without VNNI for int8 weights that were made for one with it."""
    if not fit_without_vnni(map_weights(artifact, "int8"), artifact.manifest.spec):
        raise OptionError(
            f"{artifact.path} has int8 weights that CPUs with VNNI alone can multiply, and those "
            f"of {target.name} need not have it; name all CPUs when you convert the checkpoint: "
            f"mwc convert … --precision int8 --target cpu --target cpu:{target.arch}."
        )


def target_entry(
    target: Target, precision: str, mef: str, signatures: tuple[GraphSignature, ...]
) -> TargetEntry:
    """What the manifest says of a target whose graphs are in `mef`."""
    return TargetEntry(
        name=target.name,
        device=target.device,
        arch=target.arch,
        cpu_features=target.cpu_features,
        cpu_model=target.cpu_model,
        precision=precision,
        kv_dtype=AUDIO_CACHES[precision],
        mef=mef,
        graphs=signatures,
    )


def _provenance(
    checkpoint: Checkpoint, options: ConvertOptions, notes: tuple[str, ...]
) -> Provenance:
    origin = checkpoint.origin
    given = asdict(options)
    del given["force"]
    if options.calibrate is not None:
        given["calibrate"] = options.calibrate.name
    return Provenance(
        source=origin.source,
        kind=origin.kind,
        revision=origin.revision,
        files=origin.files,
        licence=origin.licence,
        mwc_version=version("mwc"),
        max_version=version("max"),
        mojo_version=version("mojo-compiler"),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        options={**given, "targets": list(options.targets)},
        notes=notes,
    )


def _verify(
    artifact: Artifact, names: tuple[str, ...], reference: Reference, progress: Progress
) -> ParityReport:
    """Run these targets beside a reference of the checkpoint."""
    from mwc.compiler.verify import verify
    from mwc.runtime.session import Session

    spec = artifact.manifest.spec
    # Speech to the window's end: on padding, a few values of the last layers grow so large that
    # their rounding alone differs between any two implementations by as much as the bound.
    clip = np.resize(read_samples(SAMPLE), spec.audio.n_samples)
    reports = {}
    for name in names:
        session = Session(artifact, device=name)
        precision = session.target.precision
        reports[name] = verify(session, reference, spec, clip, precision, progress)
    return merge_reports(reports)


def _refuse_if_wrong(report: ParityReport, options: ConvertOptions) -> tuple[str, ...]:
    """Raise VerificationError on a wrong model; where it is kept all the same, say so in a note."""
    if report.ok:
        return ()
    if options.precision == "int8" and options.force:
        return ("int8 is further from the checkpoint than its bounds allow; --force kept it",)
    remedy = "--no-verify would skip the comparison"
    if options.precision == "int8":
        remedy = "--precision bf16, f16 or f32 is closer, --force would keep it as it is"
    raise VerificationError(
        "The compiled model does not compute what its checkpoint computes:\n"
        + "\n".join(report.summary())
        + f"\nNothing was written; {remedy}."
    )


def _first_difference(ours: WhisperSpec, theirs: WhisperSpec) -> str | None:
    """The first field in which two specs differ, with both values; None where none does.

    The alignment heads make word times, which are not compared, and not every layout states them.
    """
    for part in ("model", "audio", "tokens"):
        a, b = asdict(getattr(ours, part)), asdict(getattr(theirs, part))
        for name in a:
            if a[name] != b[name] and not name.startswith("alignment_heads"):
                return f"{name} is {a[name]} and not {b[name]}"
    return None

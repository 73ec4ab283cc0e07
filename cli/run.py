"""`mwc run`: audio in, text out."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import typer

from mwc.cli import run_options as options
from mwc.cli.cache import artifact_for
from mwc.cli.console import Display, format_coverage, format_language, format_speed
from mwc.cli.output import Output, plan_output
from mwc.cli.values import decoding_options, read_threads, writing_options
from mwc.runtime.errors import AudioError, DeviceError, OptionError, OutputError
from mwc.runtime.options import make_options
from mwc.runtime.writers.options import LAYOUT

if TYPE_CHECKING:
    from mwc.runtime import Fleet, Model, Transcript

STDIN = "-"
MUCH = 2.0
"""Seconds of speech without text that are told unasked."""
TELL_COVERAGE = frozenset({"json", "html", "all"})
"""Formats that say which speech has no text."""


def command(
    context: typer.Context,
    model: options.Model,
    audio: options.Audio,
    language: options.Language = None,
    languages: options.Languages = None,
    multilingual: options.Multilingual = None,
    language_detection_threshold: options.LanguageDetectionThreshold = None,
    task: options.Task = None,
    output_format: options.OutputFormat = None,
    output_dir: options.OutputDir = None,
    skip_existing: options.SkipExisting = False,
    max_line_width: options.MaxLineWidth = None,
    max_line_count: options.MaxLineCount = None,
    max_words_per_line: options.MaxWordsPerLine = None,
    highlight_words: options.HighlightWords = None,
    without_timestamps: options.WithoutTimestamps = None,
    initial_prompt: options.InitialPrompt = None,
    carry_initial_prompt: options.CarryInitialPrompt = None,
    prefix: options.Prefix = None,
    hotwords: options.Hotwords = None,
    condition_on_previous_text: options.ConditionOnPreviousText = None,
    clip_timestamps: options.ClipTimestamps = None,
    suppress_tokens: options.SuppressTokens = None,
    suppress_blank: options.SuppressBlank = None,
    max_initial_timestamp: options.MaxInitialTimestamp = None,
    no_speech_threshold: options.NoSpeechThreshold = None,
    logprob_threshold: options.LogprobThreshold = None,
    compression_ratio_threshold: options.CompressionRatioThreshold = None,
    temperature: options.Temperature = None,
    temperature_increment_on_fallback: options.TemperatureIncrementOnFallback = None,
    beam_size: options.BeamSize = None,
    best_of: options.BestOf = None,
    patience: options.Patience = None,
    length_penalty: options.LengthPenalty = None,
    seed: options.Seed = None,
    sample_len: options.SampleLen = None,
    word_timestamps: options.WordTimestamps = None,
    prepend_punctuations: options.PrependPunctuations = None,
    append_punctuations: options.AppendPunctuations = None,
    hallucination_silence_threshold: options.HallucinationSilenceThreshold = None,
    batch_size: options.BatchSize = None,
    vad_filter: options.VadFilter = None,
    vad_threshold: options.VadThreshold = None,
    vad_min_speech_duration_ms: options.VadMinSpeechDurationMs = None,
    vad_max_speech_duration_s: options.VadMaxSpeechDurationS = None,
    vad_min_silence_duration_ms: options.VadMinSilenceDurationMs = None,
    vad_speech_pad_ms: options.VadSpeechPadMs = None,
    coverage: options.Coverage = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    repetition_penalty: options.RepetitionPenalty = None,
    no_repeat_ngram_size: options.NoRepeatNgramSize = None,
) -> None:
    """Turn speech into text.

    Text goes to stdout (or into --output-dir), progress to stderr. Options and their defaults
    are openai/whisper's, written with hyphens or underscores, except that --beam-size and
    --best-of are 1. With several files, one that fails does not stop the others (exit code 3).
    """
    decoding = decoding_options(
        {name: v for name, v in context.params.items() if name not in _NOT_DECODING}
    )
    formats = output_format or ["txt"]
    if "html" in formats:
        decoding.setdefault("word_timestamps", True)  # its words light up
    tells_coverage = not TELL_COVERAGE.isdisjoint(formats)
    if tells_coverage:
        decoding.setdefault("coverage", True)
    if coverage and quiet and not tells_coverage:
        raise OptionError(
            "--coverage tells on stderr, where --quiet says nothing; give one of them"
        )
    given = {name: context.params[name] for name in LAYOUT}
    writing = writing_options(given, decoding)
    output = plan_output(audio, formats, output_dir, writing)
    n_threads = read_threads(threads)
    make_options(**decoding)  # a wrong option is told before anything is loaded
    with Display(quiet=quiet) as display:
        if skip_existing:
            audio = _without_transcript(audio, output, display)
        if not audio:
            return
        job = Job(tuple(audio), output, decoding)
        artifact = artifact_for(model, display)
        from mwc.runtime import load, load_fleet

        place = "gpu" if device == "cuda" else device  # openai/whisper's word for it
        try:
            if place == "all" or "," in place:
                with load_fleet(artifact, place, n_threads) as fleet:
                    for why in fleet.left_out:
                        display.warn(why)
                    failed = _transcribe_together(fleet, job, display)
            else:
                loaded = load(artifact, device=place, threads=n_threads)
                failed = transcribe_all(loaded, job, display)
        except (KeyboardInterrupt, SystemExit, DeviceError):  # a signal's is SystemExit
            _tell_how_to_go_on(job, display)
            raise
    if failed:
        raise typer.Exit(3 if failed < len(audio) else 1)


_NOT_DECODING = frozenset(
    {
        "model",
        "audio",
        "output_format",
        "output_dir",
        "skip_existing",
        "device",
        "threads",
        "quiet",
        *LAYOUT,
    }
)
"""Parameters of `command` that say what to read and write; the others go to `make_options`."""


@dataclass(frozen=True)
class Job:
    """What one `mwc run` does.

    Attributes:
        audio: what to read, in order: paths, or "-" for standard input.
        output: where each transcript goes.
        decoding: the options given, by openai/whisper's names.
    """

    audio: tuple[str, ...]
    output: Output
    decoding: dict[str, Any]


def _without_transcript(audio: Sequence[str], output: Output, display: Display) -> list[str]:
    """The inputs whose files are not all there, or are older than the audio."""
    if output.folder is None:
        raise OptionError("--skip-existing looks for transcripts in --output-dir; give it too")
    left = [name for name in audio if not output.is_written(name)]
    if len(left) < len(audio):
        n_there = len(audio) - len(left)
        display.note(f"transcripts of {n_there} of {len(audio)} files are there already")
    return left


def _tell_how_to_go_on(job: Job, display: Display) -> None:
    """Where several files were to be written, say how many are, and how the others get there."""
    folder = job.output.folder
    if folder is None or len(job.audio) == 1:
        return
    n_there = sum(map(job.output.is_written, job.audio))
    display.note(
        f"{n_there} of {len(job.audio)} transcripts are in {folder}; the same command with "
        "--skip-existing makes the others"
    )


def transcribe_all(model: "Model", job: Job, display: Display) -> int:
    """Transcribe every input and return how many could not be.

    With one input its error is raised; with several it is told, and the others go on, also where
    a transcript cannot be written. With --batch-size several are decoded together; their texts
    come in order all the same.

    Raises:
        AudioError, OutputError: the only input cannot be used as audio, or its text written.
        MwcError: something that would fail for every input alike.
    """
    if len(job.audio) > 1 and job.decoding.get("batch_size", 1) > 1:
        return _transcribe_together(model, job, display)
    failed = 0
    for name in job.audio:
        try:
            _transcribe_one(model, name, job, display)
        except (AudioError, OutputError) as error:
            if len(job.audio) == 1:
                raise
            failed += 1
            display.warn(str(error))
    return failed


def _transcribe_one(model: "Model", name: str, job: Job, display: Display) -> None:
    from mwc.runtime.audio import open_audio

    started = time.perf_counter()
    display.clear()
    source = open_audio(_input(name), to_read=True)
    stream = model.stream(source, progress=display, **job.decoding)
    begun = False
    for segment in stream:
        if job.output.streams:
            with display.aside():
                if not begun:
                    job.output.begin(name)
                job.output.print_segment(segment)
            begun = True
    transcript = stream.transcript()
    with display.aside():
        if not job.output.streams:
            job.output.write(name, transcript)
        elif not begun:
            job.output.begin(name)
    _tell(name, transcript, job, display)
    speed = format_speed(_heard(transcript, job), time.perf_counter() - started)
    display.note(f"{name}: {speed}" if len(job.audio) > 1 else speed)


def _transcribe_together(model: "Model | Fleet", job: Job, display: Display) -> int:
    """Files are written as they are done; on stdout texts come in order.

    Where it ends early, by an error or Ctrl-C, stdout gets what is done and was waiting for others.
    """
    started, tally = time.perf_counter(), _Tally()
    inputs = (_input(name) for name in job.audio)
    completed = model.transcribe_as_completed(inputs, progress=display, **job.decoding)
    waiting: dict[int, Transcript | AudioError] = {}
    n_given = 0
    try:
        for number, found in completed:
            waiting[number] = found
            if job.output.folder is not None:
                _give(job.audio[number], waiting.pop(number), job, display, tally)
            while n_given in waiting:
                _give(job.audio[n_given], waiting.pop(n_given), job, display, tally)
                n_given += 1
    finally:
        for number in sorted(waiting):
            _give(job.audio[number], waiting[number], job, display, tally)
    speed = format_speed(tally.seconds, time.perf_counter() - started)
    n_transcribed = len(job.audio) - tally.failed
    display.note(speed if len(job.audio) == 1 else f"{n_transcribed} files: {speed}")
    return tally.failed


@dataclass
class _Tally:
    """What several files came to: seconds of audio transcribed, and files that failed."""

    seconds: float = 0.0
    failed: int = 0


def _give(
    name: str, found: "Transcript | AudioError", job: Job, display: Display, tally: _Tally
) -> None:
    """Print or write one of several files, or tell why it has no transcript.

    Raises:
        AudioError, OutputError: of the only one.
    """
    try:
        if isinstance(found, AudioError):
            raise found
        tally.seconds += _heard(found, job)
        with display.aside():
            _put(name, found, job.output)
    except (AudioError, OutputError) as error:
        if len(job.audio) == 1:
            raise
        tally.failed += 1
        display.warn(str(error))
    if not isinstance(found, AudioError):
        _tell(name, found, job, display)


def _put(name: str, transcript: "Transcript", output: Output) -> None:
    """Print or write a whole transcript."""
    if not output.streams:
        output.write(name, transcript)
        return
    output.begin(name)
    for segment in transcript.segments:
        output.print_segment(segment)


def _heard(transcript: "Transcript", job: Job) -> float:
    """Seconds of its audio that were asked for."""
    times = list(make_options(**job.decoding).clip_timestamps) or [0.0]
    if len(times) % 2:
        times.append(transcript.duration)
    ends = (min(end, transcript.duration) for end in times[1::2])
    return sum(end - start for start, end in zip(times[::2], ends, strict=True))


def _tell(name: str, transcript: "Transcript", job: Job, display: Display) -> None:
    """Say what there is to know of a transcript that is not in its text."""
    whose = f"{name}: " if len(job.audio) > 1 else ""
    for warning in transcript.warnings:
        display.warn(whose + warning)
    if transcript.language_probability is not None:
        display.note(f"{whose}{format_language(transcript)}")
    if not transcript.text.strip():
        display.note(f"{whose}no text: nothing that the model takes for speech")
    coverage = transcript.coverage
    if coverage and (job.decoding.get("coverage") or coverage.uncovered_seconds >= MUCH):
        display.note(whose + format_coverage(coverage))


def _input(name: str) -> "str | BinaryIO":
    return _stdin() if name == STDIN else name


def _stdin() -> BinaryIO:
    if sys.stdin is None or sys.stdin.isatty():
        raise OptionError("- reads audio from standard input, but nothing is piped into it")
    return sys.stdin.buffer

"""`mwc run`: audio in, text out."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from mwc.cli.cache import artifact_for
from mwc.cli.console import Display, format_speed
from mwc.cli.output import Output, plan_output
from mwc.cli.values import decoding_options, read_threads, writing_options
from mwc.runtime.errors import AudioError, OptionError
from mwc.runtime.options import make_options
from mwc.runtime.writers.options import LAYOUT

if TYPE_CHECKING:
    from mwc.runtime import Model

STDIN = "-"


def command(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            help="An artifact; or a checkpoint, which is converted into the cache the first time.",
            show_default=False,
        ),
    ],
    audio: Annotated[
        list[str],
        typer.Argument(help="Audio or video files; - is standard input.", show_default=False),
    ],
    language: Annotated[
        str | None,
        typer.Option(
            "--language", "-l", help="Spoken language, code or name; detected if left out."
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", help="transcribe, or translate into English.")
    ] = None,
    output_format: Annotated[
        str,
        typer.Option(
            "--output-format",
            "-f",
            help="txt, srt, vtt, tsv, json, lrc, csv, html, or all (each of them, into files).",
        ),
    ] = "txt",
    output_dir: Annotated[
        Path | None,
        typer.Option("--output-dir", "-o", help="Write files there instead of to stdout."),
    ] = None,
    max_line_width: Annotated[
        str | None,
        typer.Option(
            "--max-line-width",
            metavar="N",
            help="Most characters in a subtitle's line; needs --word-timestamps.",
        ),
    ] = None,
    max_line_count: Annotated[
        str | None,
        typer.Option(
            "--max-line-count",
            metavar="N",
            help="Most lines in a subtitle, with --max-line-width.",
        ),
    ] = None,
    max_words_per_line: Annotated[
        str | None,
        typer.Option(
            "--max-words-per-line",
            metavar="N",
            help="Most words in a subtitle; needs --word-timestamps.",
        ),
    ] = None,
    highlight_words: Annotated[
        bool | None,
        typer.Option(
            "--highlight-words/--no-highlight-words",
            help="Underline each word as it is said (srt, vtt), or time it (lrc).",
        ),
    ] = None,
    without_timestamps: Annotated[
        bool | None,
        typer.Option(
            "--without-timestamps/--no-without-timestamps", help="Decode without time tokens."
        ),
    ] = None,
    initial_prompt: Annotated[
        str | None,
        typer.Option(
            "--initial-prompt",
            "--prompt",
            metavar="TEXT",
            help="Text to set the first window's style.",
        ),
    ] = None,
    prefix: Annotated[
        str | None,
        typer.Option("--prefix", metavar="TEXT", help="Text each window's transcript begins with."),
    ] = None,
    condition_on_previous_text: Annotated[
        bool | None,
        typer.Option(
            "--condition-on-previous-text/--no-condition-on-previous-text",
            help="Give each window the text before it (the default).",
        ),
    ] = None,
    clip_timestamps: Annotated[
        str | None,
        typer.Option(
            "--clip-timestamps",
            metavar="SECONDS,…",
            help="START,END,START,… in seconds: only these clips.",
        ),
    ] = None,
    suppress_tokens: Annotated[
        str | None,
        typer.Option(
            "--suppress-tokens",
            metavar="IDS",
            help="Token ids never to choose; -1: the usual symbols.",
        ),
    ] = None,
    suppress_blank: Annotated[
        bool | None,
        typer.Option(
            "--suppress-blank/--no-suppress-blank", help="Never begin with a blank (the default)."
        ),
    ] = None,
    max_initial_timestamp: Annotated[
        str | None,
        typer.Option(
            "--max-initial-timestamp",
            metavar="SECONDS",
            help="Latest first time in a window, seconds.",
        ),
    ] = None,
    no_speech_threshold: Annotated[
        str | None,
        typer.Option(
            "--no-speech-threshold",
            metavar="NUMBER",
            help="Skip a window likelier silent than this…",
        ),
    ] = None,
    logprob_threshold: Annotated[
        str | None,
        typer.Option(
            "--logprob-threshold",
            metavar="NUMBER",
            help="…if its mean log-probability is below this; decode others again.",
        ),
    ] = None,
    compression_ratio_threshold: Annotated[
        str | None,
        typer.Option(
            "--compression-ratio-threshold",
            metavar="NUMBER",
            help="Text that packs better is repetition: decoded again.",
        ),
    ] = None,
    temperature: Annotated[
        str | None,
        typer.Option(
            "--temperature", metavar="NUMBER", help="0: the likeliest words; above: a sample."
        ),
    ] = None,
    temperature_increment_on_fallback: Annotated[
        str | None,
        typer.Option(
            "--temperature-increment-on-fallback",
            metavar="NUMBER",
            help="Step to 1 where text fails a threshold (0.2); None: never.",
        ),
    ] = None,
    beam_size: Annotated[
        str | None,
        typer.Option(
            "--beam-size", metavar="N", help="Beams at temperature 0; 1, the default, is greedy."
        ),
    ] = None,
    best_of: Annotated[
        str | None,
        typer.Option("--best-of", metavar="N", help="Samples above temperature 0 (1)."),
    ] = None,
    patience: Annotated[
        str | None,
        typer.Option(
            "--patience", metavar="NUMBER", help="Finish this many times --beam-size (1)."
        ),
    ] = None,
    length_penalty: Annotated[
        str | None,
        typer.Option(
            "--length-penalty",
            metavar="NUMBER",
            help="0 to 1: rank by Google NMT's penalty, not by the mean.",
        ),
    ] = None,
    seed: Annotated[
        str | None,
        typer.Option("--seed", metavar="N", help="Of the samples; equal ones, equal text (0)."),
    ] = None,
    sample_len: Annotated[
        str | None,
        typer.Option("--sample-len", metavar="N", help="Most tokens to sample in one window."),
    ] = None,
    word_timestamps: Annotated[
        bool | None,
        typer.Option(
            "--word-timestamps/--no-word-timestamps",
            help="Find when each word was said; html does unless told not to.",
        ),
    ] = None,
    prepend_punctuations: Annotated[
        str | None,
        typer.Option(
            "--prepend-punctuations",
            metavar="MARKS",
            help="Marks that belong to the word after them.",
        ),
    ] = None,
    append_punctuations: Annotated[
        str | None,
        typer.Option(
            "--append-punctuations",
            metavar="MARKS",
            help="Marks that belong to the word before them.",
        ),
    ] = None,
    hallucination_silence_threshold: Annotated[
        str | None,
        typer.Option(
            "--hallucination-silence-threshold",
            metavar="SECONDS",
            help="Drop unlikely words amid this much silence.",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="auto, cpu, gpu, or the name of a target.")
    ] = "auto",
    threads: Annotated[
        str | None,
        typer.Option(
            "--threads", "-t", metavar="N", help="CPU threads; as many as are usable if left out."
        ),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say nothing on stderr but errors.")
    ] = False,
    carry_initial_prompt: Annotated[
        bool | None, typer.Option("--carry-initial-prompt/--no-carry-initial-prompt", hidden=True)
    ] = None,
    vad_filter: Annotated[
        bool | None, typer.Option("--vad-filter/--no-vad-filter", hidden=True)
    ] = None,
    hotwords: Annotated[str | None, typer.Option("--hotwords", hidden=True)] = None,
    repetition_penalty: Annotated[
        str | None, typer.Option("--repetition-penalty", hidden=True)
    ] = None,
    no_repeat_ngram_size: Annotated[
        str | None, typer.Option("--no-repeat-ngram-size", hidden=True)
    ] = None,
) -> None:
    """Turn speech into text.

    Text goes to stdout (or into --output-dir), progress to stderr. Options and their defaults
    are openai/whisper's, written with hyphens or underscores, except that --beam-size and
    --best-of are 1. With several files, one that fails does not stop the others (exit code 3).
    """
    decoding = decoding_options(
        {name: v for name, v in context.params.items() if name not in _NOT_DECODING}
    )
    if output_format == "html":
        decoding.setdefault("word_timestamps", True)  # its words light up
    given = {name: context.params[name] for name in LAYOUT}
    writing = writing_options(given, decoding)
    job = Job(tuple(audio), plan_output(audio, output_format, output_dir, writing), decoding)
    n_threads = read_threads(threads)
    make_options(**decoding)  # a wrong option is told before anything is loaded
    with Display(quiet=quiet) as display:
        artifact = artifact_for(model, display)
        from mwc.runtime import load

        place = "gpu" if device == "cuda" else device  # openai/whisper's word for it
        loaded = load(artifact, device=place, threads=n_threads)
        failed = transcribe_all(loaded, job, display)
    if failed:
        raise typer.Exit(3 if failed < len(audio) else 1)


_NOT_DECODING = frozenset(
    {"model", "audio", "output_format", "output_dir", "device", "threads", "quiet", *LAYOUT}
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


def transcribe_all(model: "Model", job: Job, display: Display) -> int:
    """Transcribe every input in order and return how many could not be.

    With one input its error is raised; with several it is told, and the next one's turn comes.

    Raises:
        AudioError: the only input cannot be used as audio.
        MwcError: something that would fail for every input alike.
    """
    failed = 0
    for name in job.audio:
        try:
            _transcribe_one(model, name, job, display)
        except AudioError as error:
            if len(job.audio) == 1:
                raise
            failed += 1
            display.warn(str(error))
    return failed


def _transcribe_one(model: "Model", name: str, job: Job, display: Display) -> None:
    from mwc.runtime.audio import open_audio

    started = time.perf_counter()
    display.clear()
    source = open_audio(_stdin() if name == STDIN else name)
    if job.output.streams:
        with display.aside():
            job.output.begin(name)
        for segment in model.stream(source, progress=display, **job.decoding):
            with display.aside():
                job.output.print_segment(segment)
        seconds = display.audio_seconds or 0.0
    else:
        transcript = model.transcribe(source, progress=display, **job.decoding)
        with display.aside():
            job.output.write(name, transcript)
        seconds = transcript.duration
    for warning in source.warnings:
        display.warn(warning)
    speed = format_speed(seconds, time.perf_counter() - started)
    display.note(f"{name}: {speed}" if len(job.audio) > 1 else speed)


def _stdin() -> BinaryIO:
    if sys.stdin.isatty():
        raise OptionError("- reads audio from standard input, but nothing is piped into it")
    return sys.stdin.buffer

"""The options of `mwc run`, as typer shows and reads them: one type per parameter of its command.

Names, meanings and defaults are those of `mwc.runtime.TranscribeOptions`; numbers arrive as text,
since the word None is one of their values (`values.read_number`).
"""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Argument(
        help="An artifact; or a checkpoint, which is converted into the cache the first time.",
        show_default=False,
    ),
]

Audio = Annotated[
    list[str],
    typer.Argument(help="Audio or video files; - is standard input.", show_default=False),
]

Language = Annotated[
    str | None,
    typer.Option("--language", "-l", help="Spoken language, code or name; detected if left out."),
]

Task = Annotated[str | None, typer.Option("--task", help="transcribe, or translate into English.")]

OutputFormat = Annotated[
    list[str] | None,
    typer.Option(
        "--output-format",
        "-f",
        help="txt (the default), srt, vtt, tsv, json, lrc, csv, html, all; also several times.",
    ),
]

OutputDir = Annotated[
    Path | None,
    typer.Option("--output-dir", "-o", help="Write files there instead of to stdout."),
]

SkipExisting = Annotated[
    bool,
    typer.Option(
        "--skip-existing", help="Leave out audio whose transcripts are in --output-dir already."
    ),
]

MaxLineWidth = Annotated[
    str | None,
    typer.Option(
        "--max-line-width",
        metavar="N",
        help="Most characters in a subtitle's line; needs --word-timestamps.",
    ),
]

MaxLineCount = Annotated[
    str | None,
    typer.Option(
        "--max-line-count",
        metavar="N",
        help="Most lines in a subtitle, with --max-line-width.",
    ),
]

MaxWordsPerLine = Annotated[
    str | None,
    typer.Option(
        "--max-words-per-line",
        metavar="N",
        help="Most words in a subtitle; needs --word-timestamps.",
    ),
]

HighlightWords = Annotated[
    bool | None,
    typer.Option(
        "--highlight-words/--no-highlight-words",
        help="Underline each word as it is said (srt, vtt), or time it (lrc).",
    ),
]

WithoutTimestamps = Annotated[
    bool | None,
    typer.Option(
        "--without-timestamps/--no-without-timestamps", help="Decode without time tokens."
    ),
]

InitialPrompt = Annotated[
    str | None,
    typer.Option(
        "--initial-prompt",
        "--prompt",
        metavar="TEXT",
        help="Text to set the first window's style.",
    ),
]

Prefix = Annotated[
    str | None,
    typer.Option(
        "--prefix",
        metavar="TEXT",
        help="Text that each window is taken to begin with; needs --without-timestamps.",
    ),
]

ConditionOnPreviousText = Annotated[
    bool | None,
    typer.Option(
        "--condition-on-previous-text/--no-condition-on-previous-text",
        help="Give each window the text before it (the default, but not in batches).",
    ),
]

ClipTimestamps = Annotated[
    str | None,
    typer.Option(
        "--clip-timestamps",
        metavar="SECONDS,…",
        help="START,END,START,… in seconds: only these clips.",
    ),
]

SuppressTokens = Annotated[
    str | None,
    typer.Option(
        "--suppress-tokens",
        metavar="IDS",
        help="Token ids never to choose; -1: the usual symbols.",
    ),
]

SuppressBlank = Annotated[
    bool | None,
    typer.Option(
        "--suppress-blank/--no-suppress-blank", help="Never begin with a blank (the default)."
    ),
]

MaxInitialTimestamp = Annotated[
    str | None,
    typer.Option(
        "--max-initial-timestamp",
        metavar="SECONDS",
        help="Latest first time in a window, seconds.",
    ),
]

NoSpeechThreshold = Annotated[
    str | None,
    typer.Option(
        "--no-speech-threshold",
        metavar="NUMBER",
        help="Skip a window likelier silent than this…",
    ),
]

LogprobThreshold = Annotated[
    str | None,
    typer.Option(
        "--logprob-threshold",
        metavar="NUMBER",
        help="…if its mean log-probability is below this; decode others again.",
    ),
]

CompressionRatioThreshold = Annotated[
    str | None,
    typer.Option(
        "--compression-ratio-threshold",
        metavar="NUMBER",
        help="Text that packs better is repetition: decoded again.",
    ),
]

Temperature = Annotated[
    str | None,
    typer.Option(
        "--temperature", metavar="NUMBER", help="0: the likeliest words; above: a sample."
    ),
]

TemperatureIncrementOnFallback = Annotated[
    str | None,
    typer.Option(
        "--temperature-increment-on-fallback",
        metavar="NUMBER",
        help="Step to 1 where text fails a threshold (0.2); None: never.",
    ),
]

BeamSize = Annotated[
    str | None,
    typer.Option(
        "--beam-size", metavar="N", help="Beams at temperature 0; 1, the default, is greedy."
    ),
]

BestOf = Annotated[
    str | None,
    typer.Option("--best-of", metavar="N", help="Samples above temperature 0 (1)."),
]

Patience = Annotated[
    str | None,
    typer.Option("--patience", metavar="NUMBER", help="Finish this many times --beam-size (1)."),
]

LengthPenalty = Annotated[
    str | None,
    typer.Option(
        "--length-penalty",
        metavar="NUMBER",
        help="0 to 1: rank by Google NMT's penalty, not by the mean.",
    ),
]

Seed = Annotated[
    str | None,
    typer.Option("--seed", metavar="N", help="Of the samples; equal ones, equal text (0)."),
]

SampleLen = Annotated[
    str | None,
    typer.Option("--sample-len", metavar="N", help="Most tokens to sample in one window."),
]

WordTimestamps = Annotated[
    bool | None,
    typer.Option(
        "--word-timestamps/--no-word-timestamps",
        help="Find when each word was said; html does unless told not to.",
    ),
]

PrependPunctuations = Annotated[
    str | None,
    typer.Option(
        "--prepend-punctuations",
        metavar="MARKS",
        help="Marks that belong to the word after them.",
    ),
]

AppendPunctuations = Annotated[
    str | None,
    typer.Option(
        "--append-punctuations",
        metavar="MARKS",
        help="Marks that belong to the word before them.",
    ),
]

HallucinationSilenceThreshold = Annotated[
    str | None,
    typer.Option(
        "--hallucination-silence-threshold",
        metavar="SECONDS",
        help="Drop unlikely words amid this much silence.",
    ),
]

Device = Annotated[
    str,
    typer.Option(
        "--device",
        help="auto, cpu, gpu, gpu:1 or the name of a target; for several files also all (every "
        "GPU) or a list such as gpu:0,gpu:1 or cpu,cpu, with a process for each.",
    ),
]

Threads = Annotated[
    str | None,
    typer.Option(
        "--threads", "-t", metavar="N", help="CPU threads; as many as are usable if left out."
    ),
]

Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Say nothing on stderr but errors and warnings.")
]

CarryInitialPrompt = Annotated[
    bool | None,
    typer.Option(
        "--carry-initial-prompt/--no-carry-initial-prompt",
        help="Put the initial prompt before the text of every window.",
    ),
]

Hotwords = Annotated[
    str | None,
    typer.Option("--hotwords", metavar="TEXT", help="Words to expect, told to every window."),
]

Languages = Annotated[
    str | None,
    typer.Option("--languages", metavar="L,…", help="The only languages that detection may find."),
]

Multilingual = Annotated[
    bool | None,
    typer.Option(
        "--multilingual/--no-multilingual", help="Detect the language of every window anew…"
    ),
]

LanguageDetectionThreshold = Annotated[
    str | None,
    typer.Option(
        "--language-detection-threshold",
        metavar="NUMBER",
        help="…if it is this probable; else the last one stands.",
    ),
]

BatchSize = Annotated[
    str | None,
    typer.Option(
        "--batch-size",
        metavar="N",
        help="Parts, of one or several files, decoded side by side; cut at silences. 1: no parts.",
    ),
]

VadFilter = Annotated[
    bool | None,
    typer.Option("--vad-filter/--no-vad-filter", help="Hear only what is detected as speech."),
]

VadThreshold = Annotated[
    str | None,
    typer.Option(
        "--vad-threshold",
        "--vad-onset",
        metavar="NUMBER",
        help="Probability at which speech begins (0.5).",
    ),
]

VadMinSpeechDurationMs = Annotated[
    str | None,
    typer.Option(
        "--vad-min-speech-duration-ms", metavar="MS", help="Shorter speech is dropped (0)."
    ),
]

VadMaxSpeechDurationS = Annotated[
    str | None,
    typer.Option(
        "--vad-max-speech-duration-s", metavar="SECONDS", help="Longer speech is cut (never)."
    ),
]

VadMinSilenceDurationMs = Annotated[
    str | None,
    typer.Option(
        "--vad-min-silence-duration-ms",
        metavar="MS",
        help="Shorter silence is heard too (2000), and where it is cheaper up to 4 s.",
    ),
]

VadSpeechPadMs = Annotated[
    str | None,
    typer.Option("--vad-speech-pad-ms", metavar="MS", help="Heard before and after speech (400)."),
]

Coverage = Annotated[
    bool | None,
    typer.Option(
        "--coverage/--no-coverage",
        help="Tell which speech has no text; json and html do unless told not to.",
    ),
]

RepetitionPenalty = Annotated[str | None, typer.Option("--repetition-penalty", hidden=True)]

NoRepeatNgramSize = Annotated[str | None, typer.Option("--no-repeat-ngram-size", hidden=True)]

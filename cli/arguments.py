"""Command lines as users of other Whisper programs type them, turned into mwc's own spelling.

Sources of the names: openai/whisper `transcribe.py` (`cli`), Softcatala/whisper-ctranslate2
`src/whisper_ctranslate2/commandline.py`, ggml-org/whisper.cpp `examples/cli/cli.cpp`.
"""

from collections.abc import Collection, Sequence

from mwc.runtime.errors import OptionError

FLAGS = frozenset(
    {
        "--carry-initial-prompt",
        "--condition-on-previous-text",
        "--coverage",
        "--highlight-words",
        "--multilingual",
        "--skip-existing",
        "--suppress-blank",
        "--vad-filter",
        "--without-timestamps",
        "--word-timestamps",
    }
)
"""Options of `mwc run` that take no value here and True or False in openai/whisper."""

_AT_CONVERT = "the precision is part of the artifact: choose it with `mwc convert --precision`"
_FIRST = "give the artifact or checkpoint as the first argument: `mwc run ARTIFACT AUDIO…`"
_NO_FALLBACK = "use --temperature-increment-on-fallback None"
_PROMPT_RESET = "text sampled above temperature 0.5 is never a prompt: leave it out"
_FORMATS = "use --output-format with its name, and --output-dir DIR to write files"
_WIDTH = "use --max-line-width, with --word-timestamps True and --output-format srt or vtt"
_HUB = "mwc reads HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE: set those instead"
_CLIPS = "use --clip-timestamps START,END in seconds"
_NO_SPEAKERS = "mwc 0.1 does not tell speakers apart: leave it out"

_NAMES = frozenset({"--output-dir", "-o", "--against", "--tokenizer", "--calibrate"})
"""Options whose value names a file or a folder."""

FOREIGN = {
    "--model": _FIRST,
    "--model-dir": _FIRST,
    "--model-directory": _FIRST,
    "-m": _FIRST,
    "--file": _FIRST,
    "--hf-token": _HUB,
    "--local-files-only": _HUB,
    "--cache-directory": "set MWC_CACHE to the folder for converted models",
    "--compute-type": _AT_CONVERT,
    "--fp16": _AT_CONVERT,
    "--verbose": "text goes to stdout and progress to stderr; --quiet silences the latter",
    "--print-colors": "mwc 0.1 prints no token probabilities: leave it out",
    "--print-progress": "progress is shown on stderr by itself: leave it out",
    "--no-prints": "use --quiet",
    "--pretty-json": "pipe --output-format json through a formatter",
    "--device-index": "use --device gpu:1 for the second GPU, and so on",
    "--no-gpu": "use --device cpu",
    "--processors": "use --threads",
    "--batched": "use --batch-size with a number above 1",
    "--temperature-inc": "use --temperature-increment-on-fallback",
    "--no-fallback": _NO_FALLBACK,
    "--entropy-thold": "use --compression-ratio-threshold",
    "--prompt-reset-on-temperature": _PROMPT_RESET,
    "--vad": "use --vad-filter",
    "--vad-model": "the speech detector is part of the artifact, `mwc inspect` names it",
    "-vt": "use --vad-threshold",
    "-vspd": "use --vad-min-speech-duration-ms",
    "-vsd": "use --vad-min-silence-duration-ms",
    "-vmsd": "use --vad-max-speech-duration-s",
    "-vp": "use --vad-speech-pad-ms",
    "--max-len": _WIDTH,
    "--split-on-word": "lines are always split between words: leave it out",
    "--dtw": "use --word-timestamps True",
    "--translate": "use --task translate",
    "--detect-language": "leave --language out: mwc detects it and writes it into the JSON output",
    "--no-timestamps": "use --without-timestamps",
    "--offset-t": _CLIPS,
    "--duration": _CLIPS,
    "--max-context": "use --condition-on-previous-text False",
    "--suppress-nst": "use --suppress-tokens",
    "--suppress-regex": "use --suppress-tokens with token ids",
    "--output-file": "use --output-dir; a file is named after its audio",
    "--output-txt": _FORMATS,
    "--output-srt": _FORMATS,
    "--output-vtt": _FORMATS,
    "--output-csv": _FORMATS,
    "--output-json": _FORMATS,
    "--output-json-full": _FORMATS,
    "--output-lrc": _FORMATS,
    "-otxt": _FORMATS,
    "-osrt": _FORMATS,
    "-ovtt": _FORMATS,
    "-ocsv": _FORMATS,
    "-oj": _FORMATS,
    "-ojf": _FORMATS,
    "-olrc": _FORMATS,
    "-of": "use --output-dir; a file is named after its audio",
    "-tr": "use --task translate",
    "-dl": "leave --language out: mwc detects it and writes it into the JSON output",
    "-nt": "use --without-timestamps",
    "-np": "use --quiet",
    "-ng": "use --device cpu",
    "-bs": "use --beam-size",
    "-bo": "use --best-of",
    "-tp": "use --temperature",
    "-tpi": "use --temperature-increment-on-fallback",
    "-nf": _NO_FALLBACK,
    "-ml": _WIDTH,
    "-sow": "lines are always split between words: leave it out",
    "-owts": _FORMATS,
    "-ot": _CLIPS,
    "-d": _CLIPS,
    "-p": "use --threads",
    "-mc": "use --condition-on-previous-text False",
    "-et": "use --compression-ratio-threshold",
    "-lpt": "use --logprob-threshold",
    "-nth": "use --no-speech-threshold",
    "-wt": "use --word-timestamps True",
    "-tdrz": _NO_SPEAKERS,
    "-di": _NO_SPEAKERS,
    "-oved": "use --device",
    "--diarize": _NO_SPEAKERS,
    "--chunk-length": "a window is always 30 s: leave it out",
    "--chunk-size": "a window is always 30 s: leave it out",
    "--vad-method": "the speech detector is part of the artifact: leave it out",
    "--align-model": "words are timed by the model's own attention: leave it out",
    "--log-prob-threshold": "use --logprob-threshold",
    "--max-new-tokens": "use --sample-len",
    "--language-detection-segments": "use --multilingual to detect the language of every window",
    "--num-workers": "use --batch-size, or --device cpu,cpu for several processes",
    "--cpu-threads": "use --threads",
}
"""Options people know from another engine that mwc does not have: what to do instead."""


def normalise(
    argv: Sequence[str], with_value: Collection[str] = (), flags: Collection[str] = FLAGS
) -> list[str]:
    """Spell options mwc's way: hyphens for underscores, `--flag`/`--no-flag` for `--flag True`.

    Nothing after a bare `--` is touched, nor what follows an option `with_value`.
    """
    result: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*result, word, *rest]
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            name = name.replace("_", "-")
            if name in flags:
                if not equals and rest and _truth(rest[0]) is not None:
                    value = rest.pop(0)
                result.append(_flag(name, value, bool(equals)))
                continue
            word = f"{name}{equals}{value}"
        result.append(word)
        if word in with_value and rest:
            result.append(rest.pop(0))
    return result


def refuse_foreign(argv: Sequence[str], with_value: Collection[str] = ()) -> None:
    """Refuse an option that mwc does not have but another Whisper program does.

    Raises:
        OptionError: names the option and what to do instead.
    """
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return
        name = word.partition("=")[0]
        if name in FOREIGN:
            raise OptionError(f"mwc has no {name}: {FOREIGN[name]}")
        if word in with_value and rest:
            rest.pop(0)


def refuse_empty(argv: Sequence[str], with_value: Collection[str] = ()) -> None:
    """Refuse an empty name of a file, folder or model, which would be the current folder.

    Raises:
        OptionError: tells where it stands.
    """
    before = ""
    for word in argv:
        name, equals, value = word.partition("=")
        if name in _NAMES and equals and not value:
            before, word = name, ""
        if word == "" and (before not in with_value or before in _NAMES):
            where = f"after {before}" if before else "first"
            raise OptionError(
                f"the argument {where} is empty, as a variable that is not set leaves it; give a "
                "name, or . for the current folder"
            )
        before = word


def _truth(word: str) -> bool | None:
    return {"true": True, "false": False}.get(word.lower())


def _flag(name: str, value: str, has_equals: bool) -> str:
    """One flag with the value it was given: "" (none), True or False."""
    truth = _truth(value) if has_equals or value else True
    if truth is None:
        raise OptionError(f"{name} is True or False, not {value!r}")
    return name if truth else f"--no-{name.removeprefix('--')}"

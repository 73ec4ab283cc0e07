"""How faithful mwc's transcripts are to openai/whisper's, over the speech corpus.

    python benchmarks/faithfulness.py                                     # tiny.en, English
    python benchmarks/faithfulness.py --source pkg:base --name base

Both get the same samples, decoded by mwc, float32 weights, and timestamps are on:

1. Segments: the same text at the same times, greedy and with the ladder of temperatures; every
   difference explained (`segment_parity.py`).
2. Beam search: word errors beside openai/whisper's and faster-whisper's.
3. Words: how far their times are from openai/whisper's, and whether they lie inside the clip in
   which they were said (`word_parity.py`).
4. Languages: word or character errors in each, and which is detected.
5. What is said where nobody speaks.

openai/whisper's and faster-whisper's transcripts are kept in `.bench/` from run to run (`kept.py`);
mwc's are made anew. Results go to benchmarks/results/faithfulness-<name>.md and .json. A mode of
mwc beside the sequential one is a row in `faithfulness_runs.MODES`.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from engines import ENGINES, Mwc, OpenaiWhisper, Result
from faithfulness_report import Detected, FaithfulnessReport, ModeReport, write_report
from faithfulness_runs import MODES, RUNS, Mode
from kept import KeptTranscripts
from machine import machine, say
from segment_parity import Explain, compare_segments
from speech_corpus import Clip, add_corpus, english, other_languages, read_corpus, spread
from text_parity import Float32, first_difference
from weights import artifact_of, cache_of, ctranslate2_folder, openai_file
from word_parity import Part, read_parts, word_places, word_times

from mwc.compiler.word_errors import WordErrors, word_errors
from mwc.runtime.audio import read_samples

ROOT = Path(__file__).resolve().parent.parent
OPENAI, FASTER = "openai-whisper", "faster-whisper float32"
COMPOSED = "long/synthetic.flac"
"""A recording put together from clips of the corpus, with the bounds of each."""

Results = dict[str, dict[str, Result]]
"""By run and by clip."""


@dataclass(frozen=True)
class Material:
    """What mwc's transcripts are compared with: openai/whisper's and faster-whisper's (beams)."""

    clips: list[Clip]
    samples: dict[str, Float32]
    parts: list[Part]
    openai: OpenaiWhisper
    theirs: Results
    faster: dict[str, Result]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--source", default="pkg:tiny.en", help="what mwc converts (default: %(default)s)")
    add("--artifact", type=Path, help="an artifact of it; converted if left out")
    add("--openai", type=Path, help="the same weights as a .pt; made from the source if left out")
    add("--ctranslate2", type=Path, help="the same as a CTranslate2 folder; made likewise")
    add_corpus(parser)
    add("--short", type=int, default=1000, help="how many short English clips at most")
    add("--longest", type=float, default=math.inf, help="seconds; no recording longer than this")
    add("--modes", nargs="+", default=list(MODES), choices=list(MODES), help="of mwc")
    add("--threads", type=int, default=2)
    add("--name", default="tiny.en", help="of the results")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    about = machine(["mwc", "max", *ENGINES[OPENAI]().packages, *ENGINES[FASTER]().packages])
    artifact = arguments.artifact or artifact_of(arguments.source)
    mwc, openai = Mwc(), OpenaiWhisper()
    mwc.load(artifact, arguments.threads)
    everything = [c for c in read_corpus(arguments.corpus) if c.seconds <= arguments.longest]
    clips = choose_clips(everything, arguments.short, mwc.model.spec.tokens.is_multilingual)
    samples = {clip.name: read_samples(clip.path) for clip in clips}
    ours = {
        name: transcribe_all(mwc, MODES[name], name, clips, samples) for name in arguments.modes
    }
    openai.load(arguments.openai or openai_file(arguments.source), arguments.threads)
    keep = cache_of(str(arguments.openai or arguments.source)) / "transcripts"
    theirs = {run: transcribe_kept(OPENAI, openai, keep, run, clips, samples) for run in RUNS}
    fastest = ENGINES[FASTER]()
    fastest.load(arguments.ctranslate2 or ctranslate2_folder(arguments.source), arguments.threads)
    material = Material(
        clips=clips,
        samples=samples,
        parts=read_parts((arguments.corpus / COMPOSED).with_suffix(".segments.json")),
        openai=openai,
        theirs=theirs,
        faster=transcribe_kept(
            FASTER,
            fastest,
            cache_of(str(arguments.ctranslate2 or arguments.source)) / "transcripts",
            "beam",
            clips,
            samples,
        ),
    )
    report = FaithfulnessReport(
        name=arguments.name,
        machine=about,
        clips=[clip.name for clip in clips],
        seconds=sum(clip.seconds for clip in clips),
        modes={name: compare(results, material) for name, results in ours.items()},
        detected=detect_languages(mwc, openai, clips, samples),
    )
    say("\n" + write_report(report, ROOT / "benchmarks" / "results"))


def choose_clips(clips: Sequence[Clip], short: int, is_multilingual: bool) -> list[Clip]:
    """All that the model can understand, of the short English ones at most `short`."""
    brief = [clip for clip in clips if clip.group == "short"]
    rest = [clip for clip in clips if clip.group != "short"]
    return [
        clip
        for clip in (*spread(brief, short), *rest)
        if is_multilingual or clip.language in ("", "en")
    ]


def language_of(clip: Clip) -> str:
    """The language that the engines are given; English where nobody speaks."""
    return clip.language or "en"


def transcribe_kept(
    name: str,
    engine: OpenaiWhisper,
    folder: Path,
    run: str,
    clips: Sequence[Clip],
    samples: dict[str, Float32],
) -> dict[str, Result]:
    """Transcripts of another engine, those that are kept among them."""
    kept = KeptTranscripts(folder / f"{name}-{run}.json", engine.packages, RUNS[run])
    found = {}
    for clip in clips:
        say(f"{name}, {run}: {clip.name}")
        found[clip.name] = kept.transcribe(engine, clip.name, samples[clip.name], language_of(clip))
    return found


def transcribe_all(
    mwc: Mwc, mode: Mode, name: str, clips: Sequence[Clip], samples: dict[str, Float32]
) -> Results:
    """mwc's transcripts in a mode, of each of its runs."""
    results: Results = {}
    for run in mode.runs:
        options = {**RUNS[run], **mode.options}
        results[run] = {}
        for clip in clips:
            say(f"mwc {name}, {run}: {clip.name}")
            results[run][clip.name] = mwc.transcribe(
                samples[clip.name], language_of(clip), True, options=options
            )
    return results


def compare(ours: Results, material: Material) -> ModeReport:
    """Everything about one mode of mwc; what it has no run for stays empty."""
    theirs, clips = material.theirs, material.clips
    has_words, has_beams = "words" in ours, "beam" in ours
    engines = {"mwc": ours, OPENAI: theirs}
    beams = {name: found["beam"] for name, found in engines.items() if has_beams}
    return ModeReport(
        segments={
            run: compare_segments(
                found,
                theirs[run],
                None if "beam_size" in RUNS[run] else partial(explainer, material, found, run),
            )
            for run, found in ours.items()
            if run != "words"
        },
        beam_errors=beam_errors({**beams, FASTER: material.faster}, clips) if has_beams else {},
        word_times=word_times(ours["words"], theirs["words"]) if has_words else None,
        word_places={
            name: word_places(found["words"][COMPOSED], material.parts)
            for name, found in engines.items()
            if has_words and COMPOSED in found["words"]
        },
        language_errors=language_errors(engines, clips) if "greedy" in ours else {},
        silence={
            clip.name: {
                f"{name}, {run}": len(found[run][clip.name].text.split())
                for name, found in engines.items()
                for run in ("greedy", "ladder")
            }
            for clip in clips
            if not clip.language and {"greedy", "ladder"} <= set(ours)
        },
    )


def explainer(material: Material, ours: dict[str, Result], run: str, name: str) -> Explain:
    """What measures the first token that differs in a recording."""
    clip = next(clip for clip in material.clips if clip.name == name)
    return partial(
        first_difference, material.openai.model, material.samples[name], ours[name],
        material.theirs[run][name], language_of(clip), True,
    )  # fmt: skip


def beam_errors(
    engines: dict[str, dict[str, Result]], clips: Sequence[Clip]
) -> dict[str, dict[str, WordErrors]]:
    """By group of English clips and by engine."""
    groups = {
        "English clips": english(list(clips)),
        COMPOSED: [clip for clip in clips if clip.name == COMPOSED],
    }
    return {
        group: {name: errors_of(found, chosen, "en") for name, found in engines.items()}
        for group, chosen in groups.items()
        if chosen
    }


def language_errors(
    engines: dict[str, Results], clips: Sequence[Clip]
) -> dict[str, dict[str, WordErrors]]:
    """Greedy, by language and engine, over clips that are not put together from others."""
    spoken = [*english(list(clips)), *other_languages(list(clips))]
    return {
        language: {
            name: errors_of(
                found["greedy"], [clip for clip in spoken if clip.language == language], language
            )
            for name, found in engines.items()
        }
        for language in sorted({clip.language for clip in spoken})
    }


def errors_of(results: dict[str, Result], clips: Sequence[Clip], language: str) -> WordErrors:
    """Errors of one engine over clips of one language."""
    texts = [results[clip.name].text for clip in clips]
    return word_errors([clip.transcript for clip in clips], texts, language)


def detect_languages(
    mwc: Mwc, openai: OpenaiWhisper, clips: Sequence[Clip], samples: dict[str, Float32]
) -> list[Detected]:
    """Which language each hears in the clips of other languages; nothing from a model without."""
    if not mwc.model.spec.tokens.is_multilingual:
        return []
    found = []
    for clip in other_languages(list(clips)):
        mine = mwc.model.detect_language(samples[clip.name])
        language, probability = openai.detect_language(samples[clip.name])
        found.append(
            Detected(
                clip.name, clip.language, mine.language, mine.probability, language, probability
            )
        )
    return found


if __name__ == "__main__":
    main()

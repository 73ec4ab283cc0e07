"""Accuracy of mwc over the speech corpus, beside transformers, openai-whisper and faster-whisper.

    python benchmarks/accuracy.py                                     # tiny.en, English
    python benchmarks/accuracy.py --source pkg:base --name base --english 30

1. Greedy tokens against transformers, given the same features and prompt (`token_parity.py`).
2. Text against openai-whisper's `transcribe`, each engine from the file (`text_parity.py`).
3. Word error rates on the English clips beside openai-whisper and faster-whisper float32.

The other engines come with `pip install 'mwc[bench]'`; openai-whisper also needs the ffmpeg
command. Results go to benchmarks/results/accuracy-<name>.md and .json, every difference listed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from accuracy_report import AccuracyReport, ClipTokens, write_report
from engines import ENGINES, Engine, Mwc, OpenaiWhisper, Result
from machine import machine, say
from speech_corpus import Clip, add_corpus, english, other_languages, read_corpus, spread
from text_parity import TextDifference, explain
from token_parity import Generator, WindowTokens, check_window, windows
from weights import artifact_of, ctranslate2_folder, openai_file

from mwc.compiler.word_errors import WordErrors, word_errors

ROOT = Path(__file__).resolve().parent.parent
FASTER = "faster-whisper float32"
MODES = {False: "without timestamps", True: "with timestamps"}

Results = dict[bool, dict[str, Result]]
"""By mode and by clip."""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--source", default="pkg:tiny.en", help="what mwc converts (default: %(default)s)")
    add("--artifact", type=Path, help="an artifact of it; converted if left out")
    add(
        "--openai", type=Path, help="the same weights as a .pt; made from a pkg: source if left out"
    )
    add("--ctranslate2", type=Path, help="the same as a CTranslate2 folder; made likewise")
    add_corpus(parser)
    add("--english", type=int, default=1000, help="how many English clips at most")
    add("--others", type=int, default=1000, help="how many of other languages at most")
    add("--threads", type=int, default=2)
    add("--name", default="tiny.en", help="of the results")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    about = machine(["mwc", "max", "transformers", *ENGINES["openai-whisper"]().packages,
                     *ENGINES[FASTER]().packages])  # fmt: skip
    mwc, openai, faster = Mwc(), OpenaiWhisper(), ENGINES[FASTER]()
    mwc.load(arguments.artifact or artifact_of(arguments.source), arguments.threads)
    clips = read_corpus(arguments.corpus)
    chosen = spread(english(clips), arguments.english)
    if mwc.model.spec.tokens.is_multilingual:
        chosen += spread(other_languages(clips), arguments.others)

    tokens = compare_tokens(mwc, arguments.source, chosen, arguments.threads)
    openai.load(arguments.openai or openai_file(arguments.source), arguments.threads)
    texts = {"mwc": transcribe_all("mwc", mwc, chosen)}
    texts["openai-whisper"] = transcribe_all("openai-whisper", openai, chosen)
    differences = compare_texts(openai, chosen, texts)
    spoken = [clip for clip in chosen if clip.language == "en"]
    faster.load(arguments.ctranslate2 or ctranslate2_folder(arguments.source), arguments.threads)
    texts[FASTER] = transcribe_all(FASTER, faster, spoken)
    report = AccuracyReport(
        name=arguments.name,
        machine=about,
        clips=[clip.name for clip in chosen],
        languages=sorted({clip.language for clip in chosen}),
        tokens=tokens,
        texts=differences,
        word_errors={
            MODES[mode]: {name: errors_of(found[mode], spoken) for name, found in texts.items()}
            for mode in MODES
        },
    )
    say("\n" + write_report(report, ROOT / "benchmarks" / "results"))


def compare_tokens(
    mwc: Mwc, source: str, clips: Sequence[Clip], threads: int
) -> dict[str, ClipTokens]:
    """Every clip's tokens against transformers'."""
    import torch

    from mwc.compiler.checkpoint import open_checkpoint
    from mwc.compiler.reference import open_reference

    torch.set_num_threads(threads)
    model, checkpoint = mwc.model, open_checkpoint(source)
    reference = open_reference(checkpoint, model.spec)
    generator = Generator(checkpoint, model.spec)
    found: dict[str, ClipTokens] = {}
    for clip in clips:
        say(f"tokens: {clip.name}")
        checked: dict[bool, list[WindowTokens]] = {mode: [] for mode in MODES}
        generated = []
        for window in windows(model, clip.path):
            encoder_out = reference.trace(window.normalised)["encoder"]
            for mode, results in checked.items():
                results.append(
                    check_window(model, reference, encoder_out, window, clip.language, mode)
                )
            generated.append(generator.generate(window.normalised, clip.language))
        ours = [[t for t in w.tokens if t != model.spec.tokens.eot] for w in checked[False]]
        found[clip.name] = ClipTokens(
            windows={MODES[mode]: tuple(results) for mode, results in checked.items()},
            generated_equal=ours == generated,
        )
    return found


def transcribe_all(name: str, engine: Engine, clips: Sequence[Clip]) -> Results:
    """Transcribe every clip from its file, without and with timestamps."""
    results: Results = {mode: {} for mode in MODES}
    for clip in clips:
        say(f"{name}: {clip.name}")
        for mode, found in results.items():
            found[clip.name] = engine.transcribe(clip.path, clip.language, mode)
    return results


def compare_texts(
    openai: OpenaiWhisper, clips: Sequence[Clip], texts: dict[str, Results]
) -> list[TextDifference]:
    """Explain every text that is not openai-whisper's."""
    differences = []
    for mode in MODES:
        for clip in clips:
            ours, theirs = (texts[name][mode][clip.name] for name in ("mwc", "openai-whisper"))
            if ours.text != theirs.text:
                say(f"difference {MODES[mode]}: {clip.name}")
                differences.append(explain(clip, mode, ours, theirs, openai))
    return differences


def errors_of(results: dict[str, Result], clips: Sequence[Clip]) -> WordErrors:
    """Word errors of one engine in one mode."""
    return word_errors(
        [clip.transcript for clip in clips], [results[clip.name].text for clip in clips]
    )


if __name__ == "__main__":
    main()

"""What the documents show can be typed."""

import io
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from stand_ins import BENCH_REPORT, StandInCompiler, StandInModel

from mwc.cli.main import main

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENTS = (
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "benchmarks/README.md",
    "benchmarks/figures.md",
    "benchmarks/cpu-floor.md",
    "benchmarks/cpu-tried.md",
    "benchmarks/int8-error.md",
)


def shell_lines() -> list[list[str]]:
    """Every `mwc …` command in README's shell blocks, in order, as words without its comment."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [part.strip() for block in blocks for part in re.split(r"[\n|]", block)]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("mwc ")]


def test_readme_commands_run(
    model: StandInModel,
    compiler: StandInCompiler,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MWC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"RIFF")))
    monkeypatch.setattr("mwc.runtime.artifact.open_artifact", lambda path, **options: path)
    monkeypatch.setattr("mwc.runtime.describe.describe", str)
    monkeypatch.setattr("mwc.runtime.bench.bench", lambda *given, **options: BENCH_REPORT)
    timed = tuple(replace(segment, words=()) for segment in model.transcript.segments)
    model.transcript = replace(model.transcript, segments=timed)
    Path("talk.mp3").write_bytes(b"ID3")  # a page embeds its audio
    lines = shell_lines()
    assert {words[1] for words in lines} == {"convert", "run", "inspect", "verify", "bench"}
    for words in lines:
        assert main(words[1:]) == 0, words


def headings(document: Path) -> set[str]:
    """The names that links give a document's headings: "On a GPU" is on-a-gpu."""
    found = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in found}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    local = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    for link in local:
        path, _, heading = link.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), link
        assert not heading or heading in headings(file), link


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_named_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    named = re.findall(r"`((?:compiler|runtime|cli|tests|scripts)/[\w./*]*)`", text)
    assert not [path for path in named if not list(ROOT.glob(path.rstrip("/")))]


def test_make_targets_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    made = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    for name in DOCUMENTS:
        named = re.findall(r"(?:^|`)make (\w+)", (ROOT / name).read_text(), re.MULTILINE)
        assert set(named) <= made

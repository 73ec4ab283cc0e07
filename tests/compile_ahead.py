"""Models that tests need later, compiled while earlier tests run.

With empty caches compiling is most of what the tests take, and MAX leaves much of a second core
idle at it. So `make test` (MWC_TEST_COMPILE_AHEAD) has child processes convert one model after the
other, for what that leaves in MAX's cache. A fixture takes its model before it converts it: it
waits for one that is being compiled, and one that is not begun is left to the fixture.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Conversion:
    """A model that tests convert.

    Attributes:
        name: what `take` calls it.
        wanted: the fixture that converts it, and the fixture's parameter if it has any.
        source: makes its checkpoint in a folder.
        options: of `mwc convert`.
    """

    name: str
    wanted: tuple[str, object]
    source: Callable[[Path], object]
    options: tuple[str, ...] = ()


def _random(folder: Path) -> Path:
    from tiny_checkpoint import write_tiny_checkpoint

    return write_tiny_checkpoint(folder)


def _family(name: str) -> Conversion:
    from families import family_checkpoint

    return Conversion(name, ("converted", name), lambda folder: family_checkpoint(name, folder))


def _of_tiny_en(precision: str) -> Conversion:
    name, wanted = f"tiny.en-{precision}", ("reduced", (precision, "tiny.en"))
    return Conversion(name, wanted, lambda folder: "pkg:tiny.en", ("--precision", precision))


FIXTURES = ("random_artifact", "tiny_en_artifact", "base_artifact", "converted", "reduced")
"""Those that convert something of `conversions`."""


def conversions() -> list[Conversion]:
    """All, in the order of the tests."""
    return [
        Conversion("random", ("random_artifact", None), _random),
        Conversion("tiny.en", ("tiny_en_artifact", None), lambda folder: "pkg:tiny.en"),
        Conversion("base", ("base_artifact", None), lambda folder: "pkg:base"),
        _family("distil-small.en"),
        _family("large-v3"),
        _family("large-v3-turbo"),
        _of_tiny_en("bf16"),
        Conversion("random-f16", ("reduced", ("f16", "random")), _random, ("--precision", "f16")),
        _of_tiny_en("int8"),
    ]


def wanted_of(items: Iterable[pytest.Item]) -> list[Conversion]:
    """Those that a run's tests need."""
    wanted: set[tuple[str, object]] = set()
    for item in items:
        if isinstance(item, pytest.Function):
            parameters = item.callspec.params if hasattr(item, "callspec") else {}
            names = item.fixturenames
            wanted |= {(name, parameters.get(name)) for name in names if name in FIXTURES}
    return [conversion for conversion in conversions() if conversion.wanted in wanted]


class CompileAhead:
    """Converts in the background until it is closed."""

    def __init__(self, waiting: list[Conversion], folder: Path) -> None:
        self._waiting, self._folder = list(waiting), folder
        self._changed = threading.Condition()
        self._current: str | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def take(self, name: str) -> None:
        """Return once nobody else is compiling a model, or is going to."""
        with self._changed:
            self._waiting = [each for each in self._waiting if each.name != name]
            self._changed.wait_for(lambda: self._current != name)

    def close(self) -> None:
        """End the child that is running, if any."""
        with self._changed:
            self._waiting = []
            if self._child is not None:
                self._child.terminate()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    return
                conversion = self._waiting[0]
                folder = self._folder / conversion.name
                source = conversion.source(folder / "checkpoint")  # if it fails, nobody waits
                line = ["-m", "mwc.cli.main", "convert", str(source), str(folder / "artifact")]
                self._child = subprocess.Popen(
                    [sys.executable, *line, "--no-verify", *conversion.options],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    preexec_fn=lambda: os.nice(10),
                )
                self._waiting, self._current = self._waiting[1:], conversion.name
            self._child.wait()  # whether it failed is for the test that needs the model to tell
            with self._changed:
                self._current = self._child = None
                self._changed.notify_all()

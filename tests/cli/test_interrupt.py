"""Stopping a real conversion leaves nothing behind: no folder, no process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_checkpoint import write_tiny_checkpoint

PATIENCE = 30.0
"""Seconds to wait for what takes a moment; not a bound on anything."""


def wait_for(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"no {what}"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("signum", "to_group", "code"),
    [
        (signal.SIGINT, True, 130),
        (signal.SIGINT, False, 130),
        (signal.SIGTERM, False, 143),
        (signal.SIGHUP, False, 129),
    ],
)
def test_a_stopped_conversion_leaves_nothing(
    tmp_path: Path, signum: signal.Signals, to_group: bool, code: int
) -> None:
    source = write_tiny_checkpoint(tmp_path / "checkpoint")
    folder = tmp_path / "made"
    folder.mkdir()
    line = [sys.executable, "-m", "mwc.cli.main", "convert", str(source), str(folder / "out")]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, start_new_session=True) as run:
        # The weights come before the compiler, which is the long part and another process.
        wait_for(lambda: list(folder.rglob("*.safetensors")), "weights")
        wait_for(lambda: children(run.pid), "child process")
        started = children(run.pid)
        (os.killpg if to_group else os.kill)(run.pid, signum)
        _, err = run.communicate(timeout=PATIENCE)
    assert run.returncode == code, err
    assert "Traceback" not in err
    assert list(folder.iterdir()) == []
    wait_for(lambda: not any(map(is_alive, started)), "end of the child process")

"""How calls of MAX share the CPUs: what the calling thread asks for, and what it leaves alone."""

import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from mwc.runtime import scheduling

linux = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")


def slack(thread: int | str = "self") -> int:
    """Timer slack of a thread in nanoseconds."""
    return int(Path(f"/proc/{thread}/timerslack_ns").read_text())


@pytest.fixture
def first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nothing had been called yet, in a thread whose turns are not asked about."""
    monkeypatch.setattr(scheduling, "_has_called", False)
    monkeypatch.setattr(scheduling, "take_short_turns", lambda: True)


@pytest.mark.usefixtures("first_call")
def test_a_call_is_passed_on() -> None:
    assert scheduling.call(lambda a, b: a + b, (1, 2)) == 3
    assert scheduling.call(max, [4, 9, 2]) == 9


@linux
@pytest.mark.usefixtures("first_call")
def test_threads_of_the_first_call_alone_have_coarse_timers() -> None:
    seen: list[int] = []

    def start_a_thread() -> None:
        thread = threading.Thread(target=lambda: seen.append(slack(threading.get_native_id())))
        thread.start()
        thread.join()

    before = slack()
    scheduling.call(start_a_thread, ())
    scheduling.call(start_a_thread, ())
    assert seen == [scheduling.COARSE, before]
    assert slack() == before


@linux
@pytest.mark.usefixtures("first_call")
def test_a_first_call_that_fails_leaves_the_timers_as_they_were() -> None:
    before = slack()
    with pytest.raises(ZeroDivisionError):
        scheduling.call(lambda: 1 // 0, ())
    assert slack() == before
    scheduling.call(lambda: None, ())
    assert slack() == before


@linux
def test_short_turns_keep_policy_and_priority() -> None:
    program = """
        import os
        from mwc.runtime.scheduling import take_short_turns
        os.nice(3)
        before = os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)
        take_short_turns()
        assert (os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)) == before
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        assert not take_short_turns()
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_elsewhere_nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(scheduling.ctypes, "CDLL", lambda _: pytest.fail("asked the C library"))
    assert not scheduling.take_short_turns()
    with scheduling.coarse_timers():
        pass


@linux
def test_what_the_first_call_of_a_model_starts_sleeps(random_artifact: Path) -> None:
    """MAX's thread for log messages, which would look for them 5,000 times a second."""
    program = """
        import sys
        from pathlib import Path
        import numpy as np
        from mwc.runtime.artifact import open_artifact
        from mwc.runtime.decoder import PIECE_SAMPLES
        from mwc.runtime.scheduling import COARSE
        from mwc.runtime.session import Session

        def threads():
            return {task.name for task in Path("/proc/self/task").iterdir()}

        session = Session(open_artifact(sys.argv[1]))
        samples = np.zeros((1, PIECE_SAMPLES), np.float32)
        before = threads()
        session.log_mel(samples)
        started = threads() - before
        assert started
        for thread in started:
            slack = int(Path(f"/proc/{thread}/timerslack_ns").read_text())
            assert slack == COARSE, slack
        session.log_mel(samples)
        assert threads() <= before | started
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(random_artifact)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr

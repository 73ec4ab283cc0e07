"""What MAX is told before it begins, and what a process says as it ends."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from mwc.runtime.max_import import BUSY_WAIT, HELD_SIGNALS, signals_held

PROGRAM = """
    import threading
    from mwc.runtime.threads import open_cpu

    def use():
        open_cpu(None)

    {call}
    import max.graph
    with max.graph.Graph("nothing"):
        pass
"""


@pytest.mark.parametrize(
    "call",
    ["use()", "t = threading.Thread(target=use); t.start(); t.join()"],
    ids=["the main thread", "another"],
)
def test_a_process_ends_without_a_word(call: str) -> None:
    program = textwrap.dedent(PROGRAM).format(call=call)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


LOADING = """
    import os
    from mwc.runtime.max_import import BUSY_WAIT, SHORT_WAIT
    from mwc.runtime.threads import open_cpu

    def waits():
        return [os.environ.get(name) for name in BUSY_WAIT]

    {before}
    open_cpu(1)
    from max.engine import InferenceSession
    from max.driver import CPU
    InferenceSession(devices=[CPU()])  # another part of MAX, which ends the process if they differ
    assert waits() == {waits}, waits()
"""

FOR_GPU = "from mwc.runtime.max_import import import_max; import_max(for_gpu=True)"


@pytest.mark.parametrize(
    ("before", "given", "waits"),
    [
        ("", {}, "[SHORT_WAIT] * 2"),
        ("", {BUSY_WAIT[0]: "7"}, "['7'] * 2"),
        ("", {BUSY_WAIT[1]: "7"}, "['7'] * 2"),
        ("", dict.fromkeys(BUSY_WAIT, "0"), "['0'] * 2"),
        ("import max.driver; max.driver.CPU()", {}, "[None] * 2"),
        (FOR_GPU, {}, "[None] * 2"),
        (FOR_GPU, {BUSY_WAIT[0]: "7"}, "['7'] * 2"),
    ],
    ids=["nothing", "one name", "the other", "both", "MAX is in use", "a GPU", "a GPU, one name"],
)
def test_workers_wait_as_both_names_say(before: str, given: dict[str, str], waits: str) -> None:
    program = textwrap.dedent(LOADING).format(before=before, waits=waits)
    unset = {name: value for name, value in os.environ.items() if name not in BUSY_WAIT}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**unset, **given}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("signum", HELD_SIGNALS)
def test_a_signal_waits_for_the_end_of_the_block(signum: signal.Signals) -> None:
    told = []
    before = signal.signal(signum, lambda number, frame: told.append(number))
    try:
        with signals_held():
            signal.raise_signal(signum)
            assert told == []
        assert told == [signum]
        signal.raise_signal(signum)
        assert told == [signum] * 2  # the handler is the one from before
    finally:
        signal.signal(signum, before)


def test_signals_are_left_alone_in_other_threads_and_where_ignored() -> None:
    def use() -> None:
        with signals_held():
            seen.append(signal.getsignal(signal.SIGTERM))

    seen: list[object] = []
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_held():
            seen.append(signal.getsignal(signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert seen == [signal.getsignal(signal.SIGTERM), signal.SIG_IGN]


INTERRUPTED = """
    import os, signal, threading, time

    from mwc.runtime.max_import import import_max

    threading.Timer({seconds}, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        import_max()
        time.sleep(60)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
"""


@pytest.mark.parametrize("seconds", [0.02, 0.05, 0.1, 0.2])
def test_ctrl_c_while_max_is_imported_is_no_crash(seconds: float) -> None:
    program = textwrap.dedent(INTERRUPTED).format(seconds=seconds)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")

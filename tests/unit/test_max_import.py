"""What MAX is told before it begins, and what a process says as it ends."""

import os
import subprocess
import sys
import textwrap

import pytest

from mwc.runtime.max_import import BUSY_WAIT

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

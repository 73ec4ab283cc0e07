"""What a process says as it ends, whichever thread was the first to use MAX."""

import subprocess
import sys
import textwrap

import pytest

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

"""How many workers MAX gets: each case in a process of its own, since the first one counts."""

import os
import subprocess
import sys
import textwrap

import pytest

from mwc.runtime.platform import usable_cpus

PRELUDE = """
    import os
    from pathlib import Path
    import max.engine  # what it starts is there before the workers
    from mwc.runtime import OptionError
    from mwc.runtime.threads import open_cpu

    def threads():
        return {int(task.name) for task in Path("/proc/self/task").iterdir()}

    before_workers = threads()

    def workers():
        return len(threads() - before_workers)

    def allowed():
        "The CPUs each thread of this process may run on."
        return {tuple(sorted(os.sched_getaffinity(thread))) for thread in threads()}

    def refusal(threads):
        try:
            open_cpu(threads)
        except OptionError as error:
            return str(error)
        raise AssertionError(f"{threads} threads were accepted")
"""


def run(program: str, cpus: int | None = None) -> None:
    """Run assertions in a new process, on the first `cpus` CPUs of this one."""
    code = textwrap.dedent(PRELUDE) + textwrap.dedent(program)
    mine = sorted(os.sched_getaffinity(0))
    if cpus is not None:
        code = f"import os\nos.sched_setaffinity(0, {mine[:cpus]})\n" + code
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


several = pytest.mark.skipif(usable_cpus() < 2, reason="one CPU only")


def test_all_usable_cpus_work_unless_told_otherwise() -> None:
    run(f"open_cpu(None)\nassert workers() == {usable_cpus()}, workers()")


@several
def test_fewer_workers_than_cpus_and_every_thread_may_run_anywhere() -> None:
    run(
        """
        before = allowed()
        open_cpu(1)
        assert workers() == 1, workers()
        assert allowed() == before, allowed()
        """
    )


def test_a_process_tied_to_one_cpu_gets_one_worker() -> None:
    run("open_cpu(None)\nassert workers() == 1 and len(allowed()) == 1", cpus=1)


@pytest.mark.parametrize("threads", [0, -1, 4097])
def test_a_number_out_of_range_is_refused(threads: int) -> None:
    run(
        f"""
        message = refusal({threads})
        assert "threads is {threads}" in message and "1 to {usable_cpus()}" in message, message
        assert workers() == 0
        """
    )


def test_a_number_refused_may_be_followed_by_a_good_one() -> None:
    run("refusal(0)\nopen_cpu(1)\nassert workers() == 1")


@several
def test_the_first_number_holds_for_the_process() -> None:
    run(
        """
        open_cpu(1)
        message = refusal(2)
        assert "threads is 2" in message and "another process" in message, message
        open_cpu(1)
        open_cpu(None)
        assert workers() == 1
        """
    )


def test_threads_of_the_program_may_end_meanwhile() -> None:
    run("""
        set_affinity = os.sched_setaffinity
        def gone(pid, cpus):
            if pid != 0:
                raise ProcessLookupError  # as where it ended after it was listed
            set_affinity(pid, cpus)
        os.sched_setaffinity = gone
        assert open_cpu(1)
        os.sched_setaffinity = set_affinity
    """)


@pytest.mark.parametrize("threads", ["2", 1.0, True])
def test_a_number_of_threads_is_whole(threads: object) -> None:
    run(f"""
        assert "threads is" in refusal({threads!r})
    """)

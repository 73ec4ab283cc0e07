"""The compiling child process: what it is told, how it fails, and that it never outlives us."""

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from small_artifact import SPEC

from mwc.compiler import compile as compile_module
from mwc.compiler.compile import (
    CompileJob,
    child_environment,
    compile_target,
    read_job,
    write_signatures,
)
from mwc.compiler.compile_child import check_architecture, make_plan
from mwc.compiler.target import parse_target
from mwc.runtime.child import child_command
from mwc.runtime.errors import CompileError
from mwc.runtime.progress import ProgressEvent
from mwc.runtime.spec import GraphSignature, TensorSpec

SIGNATURES = (
    GraphSignature(
        "step",
        inputs=(TensorSpec("tokens", "int32", ("tokens",)), TensorSpec("k", "float32", (2,), True)),
        outputs=(TensorSpec("chosen", "int32", ("tokens",)),),
        weights=("decoder.a", "decoder.b"),
    ),
)

PYTHON = sys.executable
"""This interpreter, before a test puts another in its place."""


def job(folder: Path) -> CompileJob:
    return CompileJob(SPEC, "f32", parse_target("cpu"), str(folder / "whisper.mef"))


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put another program in the compiler's place; it gets the same two arguments."""

    def install(program: str) -> None:
        script = tmp_path / "child.py"
        script.write_text("import os, sys, time\n" + textwrap.dedent(program))
        interpreter = tmp_path / "python"
        interpreter.write_text(f'#!/bin/sh\nshift 3\nexec {sys.executable} {script} "$@"\n')
        interpreter.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(interpreter))

    return install


def failure(folder: Path) -> str:
    with pytest.raises(CompileError) as caught:
        compile_target(job(folder))
    return str(caught.value)


def kept_log(message: str) -> str:
    path = Path(message.rsplit("its output is in ", 1)[1].removesuffix("."))
    text = path.read_text()
    path.unlink()
    return text


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_job_reaches_the_child_whole_and_signatures_come_back(tmp_path: Path, child) -> None:
    write_signatures(SIGNATURES, tmp_path / "made.json")
    child(
        f"""
        open({str(tmp_path / "seen.json")!r}, "w").write(open(sys.argv[1]).read())
        open(sys.argv[2], "w").write(open({str(tmp_path / "made.json")!r}).read())
        """
    )
    events: list[ProgressEvent] = []
    assert compile_target(job(tmp_path), events.append) == SIGNATURES
    assert read_job((tmp_path / "seen.json").read_text()) == job(tmp_path)
    assert {(e.stage, e.total, e.unit) for e in events} == {("compile cpu-host", None, "seconds")}


def test_a_failure_names_its_first_error_and_keeps_the_log(tmp_path: Path, child) -> None:
    child(
        """
        print("loading kernels")
        print("linear.mojo:3:1: error: no such op", file=sys.stderr)
        print("Traceback: ValueError: compilation failed")
        sys.exit(1)
        """
    )
    message = failure(tmp_path)
    assert "for cpu-host: linear.mojo:3:1: error: no such op; its output is in " in message
    log = kept_log(message)
    assert "loading kernels" in log
    assert "compilation failed" in log


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("os.kill(os.getpid(), 9)", "the compiler was ended by signal 9"),
        ("os.abort()", "the compiler was ended by signal 6"),
        ("print('first'); print('last words'); sys.exit(3)", "last words"),
        ("sys.exit(3)", "exit code 3"),
        ("pass", "exit code 0"),
    ],
)
def test_every_way_to_fail_is_one_sentence(
    tmp_path: Path, child, program: str, reason: str
) -> None:
    child(program)
    message = failure(tmp_path)
    assert f"MAX could not compile the graphs for cpu-host: {reason}; " in message
    kept_log(message)


def test_a_long_log_keeps_its_end(tmp_path: Path, child) -> None:
    child("[print('line', i) for i in range(5000)]; sys.exit(1)")
    lines = kept_log(failure(tmp_path)).splitlines()
    assert len(lines) == compile_module.LOG_LINES
    assert lines[-1] == "line 4999"


def test_an_exception_in_the_progress_callback_ends_the_child(tmp_path: Path, child) -> None:
    child(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)")

    def stop(event: ProgressEvent) -> None:
        if (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_target(job(tmp_path), stop)
    assert not is_running(int((tmp_path / "pid").read_text()))


def test_ctrl_c_ends_the_child(tmp_path: Path, child) -> None:
    """In a process of its own, which gets the signal as from a terminal."""
    child(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    program = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
        from pathlib import Path
        from small_artifact import SPEC
        from mwc.compiler import compile
        from mwc.compiler.target import parse_target
        sys.executable = {sys.executable!r}
        job = compile.CompileJob(SPEC, "f32", parse_target("cpu"), {str(tmp_path / "mef")!r})
        try:
            compile.compile_target(job)
        except KeyboardInterrupt:
            sys.exit(130)
        """
    parent = subprocess.Popen([PYTHON, "-c", textwrap.dedent(program)])
    deadline = time.monotonic() + 60
    while not ((tmp_path / "pid").is_file() and (tmp_path / "pid").read_text()):
        assert time.monotonic() < deadline
        assert parent.poll() is None
        time.sleep(0.05)
    parent.send_signal(signal.SIGINT)
    assert parent.wait(timeout=60) == 130
    assert not is_running(int((tmp_path / "pid").read_text()))


def test_a_cpu_computes_in_float32_and_keeps_caches_in_the_weights_dtype() -> None:
    for precision, dtype in (("f32", "float32"), ("bf16", "bfloat16"), ("f16", "float16")):
        plan = make_plan(CompileJob(SPEC, precision, parse_target("cpu"), ""))
        assert (plan.activations, plan.cache) == ("float32", dtype)
        assert not plan.on_gpu
        plan = make_plan(CompileJob(SPEC, precision, parse_target("cuda:sm_90a"), ""))
        assert (plan.activations, plan.cache) == (dtype, dtype)
        assert plan.on_gpu


def test_a_file_without_the_gpus_code_is_refused(tmp_path: Path) -> None:
    mef = tmp_path / "whisper.mef"
    mef.write_bytes(b"...sm_90a...")
    check_architecture(mef, parse_target("cuda:sm_90a"))
    check_architecture(mef, parse_target("cpu"))
    with pytest.raises(CompileError, match="no code for sm_80"):
        check_architecture(mef, parse_target("cuda:sm_80"))


def test_kernels_of_other_models_are_not_found_again(tmp_path: Path) -> None:
    kernels = tmp_path / "kernels"
    child = child_environment({"HOME": "/home/u", "XDG_CACHE_HOME": "/caches"}, kernels)
    assert child["MODULAR_CACHE_DIR"] == str(kernels)
    assert child["MODULAR_MAX_CACHE_DIR"] == "/caches/mwc/compiled"
    assert child["HOME"] == "/home/u"
    child = child_environment({"HOME": "/home/u", "MWC_CACHE": "/of-mwc"}, kernels)
    assert child["MODULAR_MAX_CACHE_DIR"] == "/of-mwc/compiled"
    chosen = {"MODULAR_CACHE_DIR": "/mine"}
    assert child_environment(chosen, kernels) == {**chosen, "PYTHONUNBUFFERED": "1"}


def test_a_module_of_the_current_folder_is_not_imported(tmp_path: Path) -> None:
    for name in ("json", "numpy", "runpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('mine')")
    line = child_command("mwc.compiler.compile_child")
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "missing 2 required positional arguments" in done.stderr
    assert "mine" not in done.stderr

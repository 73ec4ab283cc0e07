"""The command as a whole: versions, help, exit codes, interruptions."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from stand_ins import StandInModel

from mwc.cli.main import main
from mwc.runtime.artifact import FORMAT_REVISION
from mwc.runtime.errors import MwcError

Captured = pytest.CaptureFixture[str]


def test_version(capsys: Captured) -> None:
    assert main(["--version"]) == 0
    words = capsys.readouterr().out.split()
    assert words[0] == "mwc"
    assert words[2] == "MAX"
    assert words[-1] == str(FORMAT_REVISION)


@pytest.mark.parametrize("command", ["convert", "run", "inspect", "verify", "demo"])
def test_help(command: str, capsys: Captured) -> None:
    assert main([command, "--help"]) == 0
    assert f"mwc {command}" in capsys.readouterr().out


def test_no_command_shows_help(capsys: Captured) -> None:
    assert main([]) == 2
    assert "Commands:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        (["nonsense"], "`mwc --help`"),
        (["--nonsense"], "`mwc --help`"),
        (["run"], "`mwc run --help`"),
        (["verify", "a"], "`mwc verify --help`"),
    ],
)
def test_wrong_command_lines(line: list[str], advice: str, capsys: Captured) -> None:
    assert main(line) == 2
    out, err = capsys.readouterr()
    assert err.startswith("mwc: ")
    assert f"; {advice} tells what is allowed" in err
    assert not out


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MwcError("one sentence"), 1, "one sentence"),
        (FileNotFoundError(2, "No such file", "x"), 1, "No such file: x"),
        (ZeroDivisionError("by zero"), 1, "unexpected error: ZeroDivisionError: by zero"),
    ],
)
def test_errors_become_sentences_and_codes(
    model: StandInModel,
    artifact: Path,
    capsys: Captured,
    error: BaseException,
    code: int,
    told: str,
) -> None:
    model.errors["a.wav"] = error
    assert main(["run", str(artifact), "a.wav"]) == code
    err = capsys.readouterr().err
    assert err.startswith(f"mwc: {told}")
    assert "Traceback" not in err


@pytest.mark.parametrize("place", [0, 1, 4])
def test_debug_adds_the_traceback(
    model: StandInModel, artifact: Path, capsys: Captured, place: int
) -> None:
    model.errors["a.wav"] = MwcError("one sentence")
    line = ["run", str(artifact), "a.wav", "--quiet"]
    line.insert(place, "--debug")
    assert main(line) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("mwc: one sentence\n")


def test_debug_after_two_dashes_is_a_file(model: StandInModel, artifact: Path) -> None:
    assert main(["run", str(artifact), "--", "--debug"]) == 0
    assert model.calls[0][0] == "--debug"


CODE = """
import sys, time
from mwc.cli import run
def wait(*args): print("ready", flush=True); time.sleep(60)
run.transcribe_all = wait
import mwc.runtime
mwc.runtime.load = lambda *args, **options: None
from mwc.cli.main import main
sys.exit(main())
"""


def errors_of_stopped(line: list[str], signum: signal.Signals, code: int) -> str:
    """What a command says on stderr that a signal ends, with that exit code, once it is ready."""
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
        run.send_signal(signum)
        _, err = run.communicate(timeout=30)
    assert run.returncode == code
    return err


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signals(artifact: Path, signum: signal.Signals, code: int) -> None:
    line = [sys.executable, "-c", CODE, "run", str(artifact), "a.wav"]
    err = errors_of_stopped(line, signum, code)
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signals_tell_how_several_files_go_on(
    artifact: Path, tmp_path: Path, signum: signal.Signals, code: int
) -> None:
    names = [str(tmp_path / f"{letter}.wav") for letter in "abc"]
    for name in names:
        Path(name).touch()
    (tmp_path / "a.txt").write_text("done")
    line = [sys.executable, "-c", CODE, "run", str(artifact), *names, "-o", str(tmp_path)]
    err = errors_of_stopped(line, signum, code)
    assert err.splitlines()[0] == (
        f"mwc: 1 of 3 transcripts are in {tmp_path}; the same command with --skip-existing makes "
        "the others"
    )
    assert err.splitlines()[1:] == (["mwc: interrupted"] if signum == signal.SIGINT else [])


def test_a_terminal_that_goes_has_its_exit_code(artifact: Path, tmp_path: Path) -> None:
    """With bars on it and lines to be told, none of which can be written any more."""
    begin = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from mwc.runtime.progress import ProgressEvent
"""
    bars = 'args[2](ProgressEvent("transcribe", 1.0, 9.0, "seconds"))'
    code = begin + CODE.replace("print(", f"{bars}; print(")
    line = [sys.executable, "-c", code, "run", str(artifact), "a.wav", "b.wav", "-o", str(tmp_path)]
    terminal, end = os.openpty()
    with subprocess.Popen(
        line, stdin=end, stdout=end, stderr=end, start_new_session=True,
        env={**os.environ, "TERM": "xterm"},
    ) as run:  # fmt: skip
        os.close(end)
        shown = b""
        while b"ready" not in shown:
            shown += os.read(terminal, 1024)
        os.close(terminal)
        assert run.wait(timeout=30) == 129


def test_a_reader_that_leaves_is_no_error_message(artifact: Path) -> None:
    code = CODE.replace("time.sleep(60)", "print('x' * 10_000_000)")
    reading, writing = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", code, "run", str(artifact), "a.wav"],
        stdout=writing,
        stderr=subprocess.PIPE,
    ) as run:
        os.close(writing)
        os.read(reading, 6)
        os.close(reading)
        _, err = run.communicate(timeout=30)
    assert run.returncode == 1
    assert err == b""


def test_values_that_look_like_options(model: StandInModel, artifact: Path) -> None:
    assert main(["run", str(artifact), "a.wav", "--hotwords", "--fp16_x"]) == 0
    assert model.calls[0][1] == {"hotwords": "--fp16_x"}


def test_a_file_whose_name_begins_with_a_hyphen(
    model: StandInModel, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-dash.wav").touch()
    assert main(["run", str(artifact), "-dash.wav"]) == 2
    assert "a file whose name begins with - is written ./-" in capsys.readouterr().err
    assert main(["run", str(artifact), "./-dash.wav"]) == 0


def test_closed_standard_output(artifact: Path) -> None:
    code = CODE.replace("time.sleep(60)", "pass")
    line = f"{sys.executable} -c '{code}' run {artifact} a.wav >&-"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_room_where_the_output_goes(artifact: Path) -> None:
    code = CODE.replace("time.sleep(60)", "pass")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code, "run", str(artifact), "a.wav"],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "No space left on device, where the output goes; make room there" in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_file_that_gets_too_large_in_the_middle_of_a_write(
    artifact: Path, tmp_path: Path, unbuffered: str
) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3, 3)); "  # bytes
    code = CODE.replace("time.sleep(60)", "pass").replace("print(", f"{limit}print(")
    with open(tmp_path / "text.txt", "w") as file:
        done = subprocess.run(
            [sys.executable, "-c", code, "run", str(artifact), "a.wav"],
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered}, stdout=file,
            stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        "mwc: File too large, where the output goes; raise the limit on the size of a file "
        "(ulimit -f) or write elsewhere\n"
    )


def test_ctrl_c_while_the_command_is_still_imported() -> None:
    code = """
import sys
class Stop:
    def find_spec(self, name, *rest):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Stop())
from mwc.cli.start import main
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "mwc: interrupted\n")

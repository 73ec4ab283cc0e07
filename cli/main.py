"""The `mwc` command: reads the command line, calls one sub-command, turns errors into exit codes.

Exit codes: 0 done; 1 it failed; 2 the command line is wrong; 3 some of several files failed;
129 its terminal has gone, 130 interrupted (Ctrl-C), 143 terminated.
"""

import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Annotated, Any

import typer

from mwc.cli import bench, convert, demo, inspect, run, verify
from mwc.cli.arguments import normalise, refuse_empty, refuse_foreign
from mwc.cli.console import say
from mwc.runtime.disk import NO_ROOM, how_to_make_room
from mwc.runtime.errors import MwcError, OptionError

app = typer.Typer(
    name="mwc",
    help="Whisper checkpoints in, ahead-of-time compiled artifacts out, speech into text.",
    epilog="Any command takes --debug, which adds the traceback to an error.",
    add_completion=True,
    rich_markup_mode=None,  # its tables cut long option names off
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: dict[str, Callable[..., None]] = {
    "convert": convert.command,
    "run": run.command,
    "inspect": inspect.command,
    "verify": verify.command,
    "bench": bench.command,
    "demo": demo.command,
}
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


@app.callback(invoke_without_command=True)
def common(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the versions of mwc, MAX and the format.")
    ] = False,
) -> None:
    """Whisper checkpoints in, ahead-of-time compiled artifacts out, speech into text."""
    if version:
        print(versions())
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


def versions() -> str:
    """One line: mwc's version, MAX's, and the artifact format's revision."""
    from importlib.metadata import version

    from mwc.runtime.artifact import FORMAT_REVISION

    return f"mwc {version('mwc')}, MAX {version('max')}, artifact format {FORMAT_REVISION}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (the process's own by default) and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if sys.stdout is None:  # closed by whoever started this
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    debug = _take_debug(words)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # transcripts are in any script
        _buffer_stdout(sys.stdout)
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup has it ignored
        signal.signal(signal.SIGHUP, _terminate)
    try:
        return _run(words)
    except typer.TyperException as error:
        asked = words[0] if words and not words[0].startswith("-") else None
        help_line = f"mwc {asked} --help" if asked in COMMANDS else "mwc --help"
        told = error.format_message().rstrip(".")
        if any(word.startswith("-") and os.path.isfile(word) for word in words):
            told += " (a file whose name begins with - is written ./-)"
        return _failed(f"{told}; `{help_line}` tells what is allowed", error.exit_code, debug)
    except OptionError as error:
        return _failed(str(error), 2, debug)
    except MwcError as error:
        return _failed(str(error), 1, debug)
    except (KeyboardInterrupt, typer.Abort):
        say("interrupted")
        return 130
    except BrokenPipeError:
        _drop(sys.stdout.fileno())  # whoever read the text has gone
        return 1
    except OSError as error:
        if error.errno in NO_ROOM and not error.filename:
            _drop(sys.stdout.fileno())
        return _failed(_os_error(error), 1, debug)
    except Exception as error:
        told = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        hint = "" if debug else "; please report this, with the traceback that --debug adds"
        return _failed(f"unexpected error: {told}{hint}", 1, debug)


def _run(words: list[str]) -> int:
    """Call typer; a command's own code arrives as typer.Exit, which typer returns as a number."""
    commands = typer.main.get_command(app)
    with_value = _options_with_value(commands, words[0] if words else "")
    words = normalise(words, with_value)
    refuse_empty(words, with_value)
    if words[:1] == ["run"]:
        refuse_foreign(words[1:], with_value)
    code = commands(words, prog_name="mwc", standalone_mode=False)
    sys.stdout.flush()
    if code == 130:
        say("interrupted")
    return code if isinstance(code, int) else 0


def _options_with_value(commands: Any, name: str) -> frozenset[str]:
    """The options of a sub-command that the next word belongs to, whatever it looks like."""
    command = commands.commands.get(name)
    options = [p for p in command.params if p.param_type_name == "option"] if command else []
    return frozenset(spelled for option in options if not option.is_flag for spelled in option.opts)


def _take_debug(words: list[str]) -> bool:
    """Remove --debug, wherever it stands before a bare `--`, and tell whether it was there."""
    end = words.index("--") if "--" in words else len(words)
    debug = "--debug" in words[:end]
    words[:end] = [word for word in words[:end] if word != "--debug"]
    return debug


def _failed(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    say(message)
    return code


def _buffer_stdout(stdout: io.TextIOWrapper) -> None:
    """Undo PYTHONUNBUFFERED: with it, what a disk has no room for is dropped without an error.

    Python's text layer takes a write for a whole one, and only a buffer goes on with what is left.
    """
    if isinstance(stdout.buffer, io.RawIOBase):
        sys.stdout = open(stdout.fileno(), "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def _drop(descriptor: int) -> None:
    """Let go of text that cannot be written, or Python would complain as it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _os_error(error: OSError) -> str:
    """An operating system's error as a sentence: "No space left on device: /tmp/x.json"."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno in NO_ROOM and not error.filename:
        room = how_to_make_room(error)
        return f"{reason}, where the output goes; {room} or write elsewhere"
    return f"{reason}: {error.filename}" if error.filename else reason


def _terminate(signum: int, frame: FrameType | None) -> None:
    """Leave through the context managers, so that nothing half-written stays behind."""
    _let_go_of_terminal()
    raise SystemExit(128 + signum)


def _let_go_of_terminal() -> None:
    """Where the terminal has gone, have text for it go nowhere: writing it would be an error."""
    for descriptor in (1, 2):
        try:
            os.write(descriptor, b"")
        except OSError:
            _drop(descriptor)


if __name__ == "__main__":
    sys.exit(main())

"""Compiling a model's graphs for one target, in a child process.

Each target has a process of its own: MAX latches virtual devices and CPU targets for the life of a
process and would silently give a second target the first one's code; and a fault in code generation
aborts the process rather than raising.
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from mwc.compiler.target import Target
from mwc.runtime.child import child_command
from mwc.runtime.errors import CompileError
from mwc.runtime.progress import Progress, ProgressEvent, silent
from mwc.runtime.spec import GraphSignature, TensorSpec, WhisperSpec, from_json, to_json

LOG_LINES = 400
"""How much of a failed compiler's output is kept."""


@dataclass(frozen=True)
class CompileJob:
    """What the child process compiles.

    Attributes:
        spec: the model.
        precision: "f32", "bf16", "f16" or "int8".
        target: what for.
        mef: the file to write.
        only: the names of the entry points to compile; all where there are none.
        weights: what the weight file holds; all in the precision's dtype, if not given.
    """

    spec: WhisperSpec
    precision: str
    target: Target
    mef: str
    only: tuple[str, ...] = ()
    weights: tuple[TensorSpec, ...] = ()


def compile_target(job: CompileJob, progress: Progress = silent) -> tuple[GraphSignature, ...]:
    """Compile a job's entry points for its target into `job.mef`.

    Args:
        job: what to compile.
        progress: told the seconds spent, twice a second; there is no total to know.

    Returns:
        The signatures of the graphs in the file.

    Raises:
        CompileError: the compiler failed; the message names the cause and the log.
    """
    with tempfile.TemporaryDirectory(prefix="mwc-compile-") as folder:
        description, result = Path(folder, "job.json"), Path(folder, "signatures.json")
        description.write_text(json.dumps(asdict(job)))
        log = Path(folder, "log.txt")
        environment = child_environment(os.environ, Path(folder, "kernels"))
        arguments = [str(description), str(result)]
        with open(log, "wb") as output:
            code = _run_child(arguments, environment, output, job.target.name, progress)
        if code != 0 or not result.is_file():
            raise _failure(job.target, code, log)
        signatures = json.loads(result.read_text())
    return tuple(from_json(GraphSignature, signature) for signature in signatures)


def read_job(text: str) -> CompileJob:
    """A job as `compile_target` wrote it."""
    return from_json(CompileJob, json.loads(text))


def write_signatures(signatures: tuple[GraphSignature, ...], path: Path) -> None:
    """Tell the parent process what was compiled."""
    path.write_text(json.dumps([to_json(signature) for signature in signatures]))


def child_environment(ours: Mapping[str, str], kernels: Path) -> dict[str, str]:
    """The child's environment: MAX keeps whole models for the next time, but no single kernels.

    A kernel that is found in MAX's cache brings the object file that it was compiled into, with the
    other kernels of whatever model that was: after conversions of two others a model's file was
    19 MB instead of 7, and took a fifth longer to load. Caches that are set from outside are kept
    to, as in the tests, where speed counts and not the file.

    Args:
        ours: this process's environment.
        kernels: a folder for what only this child needs.
    """
    chosen = {"PYTHONUNBUFFERED": "1"}
    if "MODULAR_CACHE_DIR" not in ours:
        caches = ours.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        models = Path(ours.get("MWC_CACHE") or Path(caches, "mwc"), "compiled").expanduser()
        chosen |= {"MODULAR_CACHE_DIR": str(kernels), "MODULAR_MAX_CACHE_DIR": str(models)}
    return {**chosen, **ours}


def _run_child(
    arguments: list[str], environment: dict[str, str], output: object, name: str, progress: Progress
) -> int:
    """Run the child to its end and return its exit code; it never outlives this call."""
    child = subprocess.Popen(
        [*child_command("mwc.compiler.compile_child"), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,  # type: ignore[call-overload]
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=environment,
    )
    begin = time.monotonic()
    try:
        while True:
            progress(ProgressEvent(f"compile {name}", time.monotonic() - begin, None, "seconds"))
            try:
                return int(child.wait(timeout=0.5))
            except subprocess.TimeoutExpired:
                continue
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def _failure(target: Target, code: int, log: Path) -> CompileError:
    """The one line that says why, and a copy of the log that outlives the temporary folder."""
    lines = log.read_text(errors="replace").splitlines()
    descriptor, kept = tempfile.mkstemp(prefix=f"mwc-{target.name}-", suffix=".log")
    with os.fdopen(descriptor, "w") as file:
        file.write("\n".join(lines[-LOG_LINES:]) + "\n")
    if code < 0:
        reason = f"the compiler was ended by signal {-code}"
    else:
        errors = [line.strip() for line in lines if "error:" in line.lower() or "Error:" in line]
        reason = errors[0] if errors else (lines[-1] if lines else f"exit code {code}")
    return CompileError(
        f"MAX could not compile the graphs for {target.name}: {reason}; its output is in {kept}."
    )

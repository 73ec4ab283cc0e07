"""Options on checkpoints that several sub-commands share."""

from typing import Annotated

import typer

Revision = Annotated[
    str | None, typer.Option("--revision", help="Branch, tag or commit of a Hub id.")
]

Tokenizer = Annotated[
    str | None,
    typer.Option("--tokenizer", help="Where the vocabulary is, if the checkpoint has none."),
]

"""`mwc convert`: a checkpoint in, a compiled and verified artifact out."""

from pathlib import Path
from typing import Annotated

import typer

from mwc.cli.checkpoint_options import Revision, Tokenizer
from mwc.cli.console import Display
from mwc.runtime.errors import OptionError

_TARGET_HELP = (
    "What to compile for, repeatable: cpu or gpu (this machine's), cpu:x86-64-v3, cuda:sm_90a, …"
)


def command(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="Hub id, Hugging Face or CTranslate2 folder, OpenAI .pt, GGML .bin, or pkg:NAME; "
            "with --add-target, an artifact.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None, typer.Argument(help="The artifact's folder, made by this command.")
    ] = None,
    precision: Annotated[
        str,
        typer.Option("--precision", help="Weights and arithmetic: f32, bf16, f16; int8 on CPUs."),
    ] = "f32",
    target: Annotated[list[str] | None, typer.Option("--target", help=_TARGET_HELP)] = None,
    add_target: Annotated[
        list[str] | None,
        typer.Option(
            "--add-target", help="Compile an artifact for one more target; needs no checkpoint."
        ),
    ] = None,
    revision: Revision = None,
    tokenizer: Tokenizer = None,
    verify: Annotated[
        bool,
        typer.Option("--verify/--no-verify", help="Compare every stage with the checkpoint's."),
    ] = True,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Replace an artifact that is there already; keep int8 beyond its error bounds.",
        ),
    ] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            "--calibrate",
            help="Measure the word error rate on recordings: a table, tabs between its columns "
            "path, transcript and, if you like, language.",
            show_default=False,
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Compile a checkpoint into an artifact.

    Every stage is then compared with the checkpoint's own (--no-verify skips it). The artifact
    is one folder. It is complete or not there at all: an interrupted or failed conversion
    leaves nothing behind.
    """
    if add_target:
        _refuse_beside_add_target(
            {
                "OUT": out is not None,
                "--target": target is not None,
                "--precision": _is_given(context, "precision"),
                "--revision": revision is not None,
                "--tokenizer": tokenizer is not None,
                "--no-verify": not verify,
                "--force": force,
                "--calibrate": calibrate is not None,
            }
        )
        _add_targets(Path(source), add_target, quiet)
        return
    if out is None:
        raise OptionError("mwc convert needs OUT, the folder to write: `mwc convert SOURCE OUT`")
    from mwc.compiler import ConvertOptions, convert

    options = ConvertOptions(
        precision=precision,
        targets=tuple(target or ("cpu",)),
        revision=revision,
        tokenizer=tokenizer,
        verify=verify,
        force=force,
        calibrate=calibrate,
    )
    with Display(quiet=quiet) as display:
        result = convert(source, out, options, display)
    for note in result.notes:
        print(f"note: {note}")
    if result.report is None:
        print("not verified")
    else:
        print("\n".join(result.report.summary()))
    print(f"wrote {result.artifact} ({format_seconds(result.seconds)})")


def format_seconds(seconds: dict[str, float]) -> str:
    """How long each part took: "41.0 s: weights 1.2, compile 30.1, verify 9.7"."""
    parts = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
    return f"{sum(seconds.values()):.1f} s: {parts}" if parts else "0.0 s"


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether an option was typed, if only as its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _refuse_beside_add_target(given: dict[str, bool]) -> None:
    wrong = [name for name, is_given in given.items() if is_given]
    if wrong:
        raise OptionError(
            f"--add-target extends an artifact as it is, so {', '.join(wrong)} cannot go with it: "
            "`mwc convert ARTIFACT --add-target TARGET`"
        )


def _add_targets(artifact: Path, targets: list[str], quiet: bool) -> None:
    from mwc.compiler import add_target

    with Display(quiet=quiet) as display:
        for target in targets:
            notes = add_target(artifact, target, display)
            display.note(f"added {target} to {artifact}")
            for note in notes:
                display.note(f"note: {note}")

"""The command line. Exit codes: 0 done, 1 failure, 2 bad input, 130 stopped with Ctrl-C.

One file a command. What is heavy is imported inside the commands, so that `efface --help` imports
no torch, and only what draws imports diffusers.
"""

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from efface import __version__
from efface.cli import (
    audit,
    card,
    compare,
    draw,
    erase,
    export,
    info,
    leaderboard,
    measure,
    models,
    push,
    report,
    train_sae,
)
from efface.cli.show import one_line

DONE, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 130

app = typer.Typer(
    name="efface",
    help="Erase concepts from text-to-image diffusion models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("models")(models.models)
app.command("draw")(draw.draw)
app.command("erase", cls=erase.WithSettings)(erase.erase)
app.command("info")(info.info)
app.command("audit")(audit.audit)
app.command("report")(report.report)
app.command("card")(card.card)
app.command("compare")(compare.compare)
app.command("leaderboard")(leaderboard.leaderboard)
app.command("measure")(measure.measure)
app.command("export")(export.export)
app.command("push")(push.push)
app.command("train-sae")(train_sae.train_sae)


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"efface {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit code."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="efface")
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    except Exception as error:
        sys.exit(_explain(error))


def _explain(error: Exception) -> int:
    """Tell what went wrong: one sentence for bad input and the machine's trouble, else all."""
    core = sys.modules.get("efface.core")
    if core is not None and isinstance(error, core.EffaceError):
        typer.echo(f"efface: {one_line(error)}", err=True)
        return BAD_INPUT
    if isinstance(error, OSError | MemoryError):
        typer.echo(f"efface: {one_line(error) or 'out of memory'}", err=True)
        return FAILED
    traceback.print_exception(error)
    typer.echo("efface: this is a defect of efface, please report it", err=True)
    return FAILED

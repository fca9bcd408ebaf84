"""`efface leaderboard`: a study's JSON as the page that people read."""

from pathlib import Path
from typing import Annotated

import typer

from efface.cli import show
from efface.cli.options import Force, Json


def leaderboard(
    study: Annotated[
        Path, typer.Argument(metavar="STUDY.json", help="Of efface compare.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="MD", help="File to write [default: stdout]."),
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Lay out a study as Markdown: what it teaches, then every cell with its intervals."""
    from efface.output import check_output, write_whole
    from efface.report.leaderboard import leaderboard as whole
    from efface.report.leaderboard import read_study
    from efface.report.teaches import teaches

    if out is not None:
        check_output(out, force=force)
    told = read_study(study)
    text = whole(told)
    if out is not None:
        write_whole(out, text.encode())
    if json:
        show.as_json({"path": None if out is None else str(out), "teaches": teaches(told)})
    elif out is None:
        typer.echo(text, nl=False)
    else:
        show.facts({"leaderboard": out, "cells": len(told["cells"])})

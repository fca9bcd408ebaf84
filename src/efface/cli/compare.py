"""`efface compare`: a whole study, from a TOML file to a table."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from efface.cli import show
from efface.cli.options import Json


def compare(
    study: Annotated[
        Path, typer.Argument(metavar="STUDY.toml", help="What to run.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FOLDER", help="Of its runs; resumes.")
    ],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Instead of what the study says."),
    ] = None,
    json: Json = False,
) -> None:
    """Run erasers x concepts x attacks and lay their results side by side.

    Called again on the same folder it goes on where it was stopped.
    """
    show.quiet_loading()
    from diffusers.utils import logging

    logging.disable_progress_bar()
    from efface import study as whole
    from efface.report.leaderboard import header, lines
    from efface.study_file import load_study

    changed = list(changes or ())
    command = shlex.join(["efface", "compare", str(study), *(f"--set={c}" for c in changed)])
    with show.progress() as on_step:
        found = whole.run(load_study(study, changed), out, command, on_step)
    if json:
        show.as_json(found)
        return
    show.rows(header(found), lines(found))
    show.facts({"written": out / "study.json"})

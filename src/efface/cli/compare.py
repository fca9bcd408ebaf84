"""`efface compare`: a whole study, from a TOML file to a table."""

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

    command = f"efface compare {study}"
    with show.progress() as on_step:
        found = whole.run(whole.load_study(study), out, command, on_step)
    if json:
        show.as_json(found)
        return
    show.rows(header(found), lines(found))
    show.facts({"written": out / "study.json"})

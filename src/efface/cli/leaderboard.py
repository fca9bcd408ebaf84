"""`efface leaderboard`: a study's JSON as the page that people read."""

from pathlib import Path
from typing import Annotated

import typer


def leaderboard(
    study: Annotated[
        Path, typer.Argument(metavar="STUDY.json", help="Of efface compare.", show_default=False)
    ],
    command: Annotated[str, typer.Option(metavar="TEXT", help="What made it.")] = "efface compare",
) -> None:
    """Print a study's leaderboard as Markdown: what it teaches, then every cell."""
    from efface.report.leaderboard import leaderboard as whole
    from efface.report.leaderboard import read_study

    typer.echo(whole(read_study(study), command), nl=False)

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
    workers: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Cells at once, each in a process of its own."),
    ] = 1,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Cells as tasks of this Ray cluster; or: local."),
    ] = None,
    json: Json = False,
) -> None:
    """Run erasers x concepts x attacks and lay their results side by side.

    Called again on the same folder it goes on where it was stopped.
    """
    show.quiet_drawing()
    from efface import study as whole
    from efface import workers as where
    from efface.core import EffaceError
    from efface.report.leaderboard import header, lines
    from efface.study_file import load_study

    changed = list(changes or ())
    command = shlex.join(["efface", "compare", str(study), *(f"--set={c}" for c in changed)])
    asked = load_study(study, changed)
    schedule = where.in_turn
    if ray is not None:
        if workers > 1:
            raise EffaceError("--workers is for this machine: Ray knows how many cells at once")
        schedule = where.on_ray(ray, out, gpus=int(asked.device != "cpu"))
    elif workers > 1:
        schedule = where.in_processes(workers, show.quiet_drawing)
    with show.progress() as on_step:
        found = whole.run(asked, out, command, on_step, schedule)
    if json:
        show.as_json(found)
        return
    show.rows(header(found), lines(found))
    show.facts({"written": out / "study.json"})

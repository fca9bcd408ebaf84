"""`efface draw`: pictures of prompts, with patches or without."""

import math
from pathlib import Path
from typing import Annotated

import typer

from efface.cli import show
from efface.cli.options import Force, Json, Model, Patches

SEEDS = 2**63
"""Seeds are below this."""


def draw(
    model: Model,
    prompts: Annotated[
        list[str], typer.Argument(metavar="PROMPT...", help="One row each.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="PNG", help="Picture to write.")],
    patch: Patches = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the first column.")] = 0,
    count: Annotated[int, typer.Option(min=1, max=1000, help="Pictures a prompt.")] = 1,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Sampler steps.")] = 20,
    guidance: Annotated[float, typer.Option(help="Pull of the prompt; 1 is none.")] = 5.0,
    grid: Annotated[bool, typer.Option("--grid", help="Draw before and after.")] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Draw prompts; several pictures are laid in a grid, a row a prompt, a column a seed."""
    if grid and not patch:
        raise typer.BadParameter("it shows before and after: give a --patch", param_hint="--grid")
    if not math.isfinite(guidance):
        raise typer.BadParameter("not a finite number", param_hint="--guidance")
    if seed + count > SEEDS:
        raise typer.BadParameter("seeds are below 2^63", param_hint="--seed")

    from efface.backbones.checkpoint import resolve
    from efface.cli.pictures import Order, rows
    from efface.grid import lay, png
    from efface.output import check_output, write_whole
    from efface.patch import load

    check_output(out, force=force)
    patches = [load(path) for path in patch or []]
    root = resolve(model)
    seeds = range(seed, seed + count)
    order = Order(prompts, seeds, steps, guidance, before=grid)
    with show.progress() as on_step:
        found = rows(root, patches, order, on_step)
    if len(found) == 1 and count == 1:
        sheet = found[0].pictures[0]
    else:
        sheet = lay(found, [f"seed {s}" for s in seeds])
    write_whole(out, png(sheet))
    pictures = sum(len(row.pictures) for row in found)
    if json:
        answer = {"path": str(out), "pictures": pictures, "width": sheet.width}
        show.as_json(answer | {"height": sheet.height, "rows": [row.label for row in found]})
    else:
        show.facts({"drawn": pictures, "picture": out})

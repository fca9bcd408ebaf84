"""`efface export`: an ordinary diffusers folder with patches merged in."""

from pathlib import Path
from typing import Annotated

import typer

from efface.cli import show
from efface.cli.options import Force, Json, Model


def export(
    model: Model,
    patches: Annotated[
        list[Path],
        typer.Argument(metavar="PATCH...", help="Merged first to last.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder to write.")],
    force: Force = False,
    json: Json = False,
) -> None:
    """Write a diffusers folder that any tool loads, with the patches merged in."""
    from efface.backbones.checkpoint import resolve
    from efface.export import check_target, export_folder
    from efface.patch import load

    check_target(out, force=force)
    loaded = [load(path) for path in patches]
    root = resolve(model)
    show.quiet_loading()
    with show.progress() as on_step:
        done = export_folder(root, loaded, out, on_step, force=force)
    if json:
        show.as_json({"path": str(out), **done._asdict()})
        return
    show.facts(
        {
            "exported": out,
            "erased": ", ".join(e for p in loaded for e in p.concept.erase),
            "tensors changed": done.tensors,
            "files": done.files,
            "left out": ", ".join(done.left_out) or None,
            "size": show.size(done.bytes),
        }
    )

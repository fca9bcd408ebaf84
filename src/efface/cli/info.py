"""`efface info`: what a patch tells of itself."""

from pathlib import Path
from typing import Annotated

import typer

from efface.cli import show
from efface.cli.options import Force, Json, Tokenizer


def info(
    patch: Annotated[Path, typer.Argument(metavar="PATCH", help="Patch file.", show_default=False)],
    plot: Annotated[
        Path | None,
        typer.Option(metavar="PNG", help="Draw residual against norm; needs --model."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The model it was fitted on.")
    ] = None,
    tokenizer: Tokenizer = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Tell the story of a patch: concept, settings, base, size, certificate and drift."""
    if plot is not None and model is None:
        raise typer.BadParameter(
            "the curve is measured on the model: give it with --model", param_hint="--plot"
        )
    from efface.cli.story import gates_told, story, told
    from efface.hub import local
    from efface.output import check_output
    from efface.patch import load

    if plot is not None:
        check_output(plot, force=force)
    found = load(patch)
    size = local(patch).stat().st_size
    if plot is not None and model is not None:
        from efface.backbones.open import open_model
        from efface.cli.plot import draw_curve

        show.quiet_loading()
        with show.progress() as on_step:
            draw_curve(found, open_model(model, tokenizer), plot, on_step)
    if json:
        answer = {"path": str(patch), "bytes": size, "plot": None if plot is None else str(plot)}
        show.as_json(answer | story(found))
        return
    rank = ", ".join(
        f"rank {m.a.shape[1]} on {m.encoder} ({m.a.shape[0]} wide)" for m in found.maps
    )
    settings = {k: v for k, v in found.eraser.items() if k not in ("name", "strength")}
    show.facts(
        told(found)
        | {
            "settings": ", ".join(f"{k} {v}" for k, v in settings.items()),
            "maps": rank or None,
            "edits": f"{len(found.edits)} tensors" if found.edits else None,
            "gates": gates_told(found.gates) or None,
            "base": found.base,
            "made": ", ".join(f"{k} {v}" for k, v in found.made.items()),
            "size": show.size(size),
            "plot": plot,
        }
    )

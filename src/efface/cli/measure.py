"""`efface measure`: how good a run's pictures are, by models of the user's own."""

from pathlib import Path
from typing import Annotated, Any

import typer

from efface.cli import show
from efface.cli.options import Json

DISTANCES = ("fid", "kid", "cmmd")


def measure(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    extractor: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Image model for FID, KID, CMMD and picture change."),
    ] = None,
    clip: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="CLIP for the CLIP score.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Pictures to compare with [default: the base model's]."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Where the models run: cpu, cuda.")] = "cpu",
    json: Json = False,
) -> None:
    """Distances and CLIP scores of the pictures of what must stay.

    Numbers of two extractors, or of two CLIPs, are never to be compared.
    """
    show.quiet_loading()
    from dataclasses import asdict

    from efface import metrics
    from efface.core import EffaceError
    from efface.store import read

    if extractor is None and clip is None:
        raise EffaceError("nothing to measure with: give --extractor FOLDER or --clip FOLDER")
    if reference is not None and extractor is None:
        raise EffaceError("--reference is compared with by an --extractor: give one")
    found, asked = read(run), dict[str, tuple[str, dict[str, Any]]]()
    where = {"run": str(run), "device": device}
    if extractor is not None:
        with_it = where | {"extractor": str(extractor)}
        further = {"reference": "" if reference is None else str(reference)}
        asked |= {name: (name, with_it | further) for name in DISTANCES}
        if reference is not None:
            base = with_it | further | {"of_base": True}
            asked |= {f"{name}, base": (name, base) for name in DISTANCES}
        asked["picture-change"] = ("picture-change", with_it)
    if clip is not None:
        asked["clip-score"] = ("clip-score", where | {"clip": str(clip)})
        asked["clip-score, base"] = ("clip-score", where | {"clip": str(clip), "of_base": True})
    told = {
        key: asdict(metrics.build(name, **settings)(found.rows, found.base))
        for key, (name, settings) in asked.items()
    }
    if json:
        show.as_json({"run": str(run), "models": _models(extractor, clip), **told})
        return
    show.rows(
        ["of what must stay", "value", "95 %", "pictures", "not counted"],
        [
            [key, _number(each["value"]), _between(each), each["n"], each["skipped"]]
            for key, each in told.items()
        ],
    )


def _models(*folders: Path | None) -> dict[str, str]:
    """A hash of each model's weights, so that numbers of different ones are told apart."""
    from efface.backbones.local import fingerprint_of

    return {str(folder): fingerprint_of(folder) for folder in folders if folder}


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _between(estimate: dict[str, Any]) -> str:
    interval = estimate["interval"]
    return "" if interval is None else f"{interval[0]:.4g} to {interval[1]:.4g}"

"""`efface push`: a patch onto the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

import typer

from efface.cli import show
from efface.cli.options import Json


def push(
    patch: Annotated[Path, typer.Argument(metavar="PATCH", help="Patch file.", show_default=False)],
    repository: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="Made if absent.", show_default=False)
    ],
    name: Annotated[
        str, typer.Option(metavar="FILE", help="Name in the repository.")
    ] = "patch.safetensors",
    private: Annotated[bool, typer.Option("--private", help="Make it private.")] = False,
    json: Json = False,
) -> None:
    """Upload a patch; hub:OWNER/NAME then names it wherever a patch is asked for."""
    from efface import hub
    from efface.patch import load

    load(patch)
    address = hub.push(patch, repository, private=private, file=name)
    spec = f"{hub.SCHEME}{repository}" + ("" if name == hub.FILE else f"/{name}")
    if json:
        show.as_json({"address": address, "patch": spec})
    else:
        show.facts({"pushed": address, "load it as": spec})

"""`efface card`: the figures of an audit as a section of a model card."""

from pathlib import Path
from typing import Annotated

import typer

from efface.cli import show
from efface.cli.options import Json


def card(
    patch: Annotated[Path, typer.Argument(metavar="PATCH", help="Patch file.", show_default=False)],
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Its audit's folder.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="README.md",
            help="Card to write into; the rest of it stays [default: stdout].",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Write a section for the patch's model card on the Hugging Face hub."""
    import hashlib

    from efface.core import EffaceError
    from efface.hub import local
    from efface.output import check_folder, write_whole
    from efface.patch import load
    from efface.provenance import provenance
    from efface.report.card import placed, section
    from efface.report.evidence import gather

    told = provenance(load(patch))
    found = gather(run)
    new = section(found, told, hashlib.sha256(local(patch).read_bytes()).hexdigest())
    if out is None:
        if json:
            show.as_json({"section": new})
        else:
            typer.echo(new, nl=False)
        return
    check_folder(out.parent)
    try:
        known = out.read_text(encoding="utf-8") if out.exists() else None
    except ValueError as error:
        raise EffaceError(f"{out} is not UTF-8 text: name a model card") from error
    write_whole(out, placed(known, new, f"{found.erased}, erased from {found.model}").encode())
    if json:
        show.as_json({"path": str(out)})
    else:
        show.facts({"card": out, "verdict": found.verdict.word})

"""`efface report`: what audits found, as a page, Markdown, CSV or JSON."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from efface.cli import show
from efface.cli.options import Force, Json

if TYPE_CHECKING:
    from efface.report.evidence import Evidence

Format = Literal["html", "md", "csv", "json"]


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folders of efface audit.", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="File to write [default: stdout]."),
    ] = None,
    kind: Annotated[
        Format | None,
        typer.Option("--format", help="[default: what FILE ends in, else html]"),
    ] = None,
    blur: Annotated[
        bool | None,
        typer.Option(help="Blur the concept's pictures until asked for [default: not emoji's]."),
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Lay out the evidence of one or several audits; HTML is one file that needs no network."""
    from efface.core import EffaceError
    from efface.output import check_output, write_whole
    from efface.report.evidence import gather

    chosen = kind or _by_ending(out)
    if out is None and chosen == "html":
        raise EffaceError("a page goes into a file: name it with -o report.html")
    if out is None and json:
        raise EffaceError("--json tells of the file that was written: name it with -o")
    if out is not None:
        check_output(out, force=force)
    found = [gather(folder) for folder in runs]
    text = _layouts(found, blur)[chosen]()
    if out is None:
        typer.echo(text, nl=False)
        return
    write_whole(out, text.encode())
    if json:
        words = {e.name: e.verdict.word for e in found}
        show.as_json({"path": str(out), "bytes": len(text.encode()), "verdicts": words})
        return
    show.facts({"report": out, "size": show.size(len(text.encode()))})
    show.facts({e.name: f"{e.verdict.word}. {e.verdict.sentence}" for e in found})


def _layouts(found: "Sequence[Evidence]", blur: bool | None) -> dict[str, Callable[[], str]]:
    from efface.report import page, tables

    hidden = any(not _harmless(e) for e in found) if blur is None else blur
    return {
        "html": lambda: page.page(found, blurred=hidden),
        "md": lambda: tables.markdown(found),
        "csv": lambda: tables.as_csv(found),
        "json": lambda: tables.as_json(found),
    }


def _by_ending(out: Path | None) -> Format:
    endings: dict[str, Format] = {".md": "md", ".csv": "csv", ".json": "json"}
    return endings.get(out.suffix.lower() if out else "", "html")


def _harmless(found: "Evidence") -> bool:
    """Whether it is of the bundled model, which knows no sensitive picture."""
    return found.run.story["detector"]["name"].startswith("emoji-") and found.model == "emoji"

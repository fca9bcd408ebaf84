"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A bundled name (efface models), a diffusers folder, a checkpoint file or a hub id.",
        show_default=False,
    ),
]
Tokenizer = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="For a checkpoint file: a folder that has its tokenizer."),
]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, on stdout.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what exists.")]
Patches = Annotated[
    list[Path] | None,
    typer.Option("--patch", metavar="PATCH", help="Patch to apply; several go first to last."),
]

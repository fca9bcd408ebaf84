"""How commands speak: a table or JSON on stdout, progress on stderr."""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import typer


def one_line(text: object) -> str:
    """Text that may come from a stranger's file, on one line and without control characters."""
    return "".join(c if c.isprintable() else " " for c in " ".join(str(text).split()))


def as_json(answer: Any) -> None:
    """The whole answer, and nothing else, on stdout."""
    typer.echo(json.dumps(answer, indent=2))


def facts(pairs: Mapping[str, object]) -> None:
    """One line a fact, names to the left; None is left out."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        if value is not None:
            table.add_row(name, Text(one_line(value)))
    _print(table)


def rows(header: Sequence[str], body: Sequence[Sequence[object]]) -> None:
    """A table."""
    from rich.table import Table
    from rich.text import Text

    table = Table(*header, box=None, pad_edge=False)
    for row in body:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    _print(table)


def _print(table: Any) -> None:
    from rich.console import Console

    Console().print(table)


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr while the block runs, if somebody is looking."""
    if not sys.stderr.isatty():
        yield lambda what, step, of: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda what, step, of: bar.update(task, description=what, completed=step, total=of)


def size(count: int) -> str:
    """Bytes as people say them."""
    if count < 1000:
        return f"{count} bytes"
    for unit, factor in (("kB", 1e3), ("MB", 1e6), ("GB", 1e9)):
        if count < 1000 * factor or unit == "GB":
            break
    return f"{count / factor:.1f} {unit}"


def quiet_loading() -> None:
    """No bars, hints or second tellings of an error from libraries that read local files."""
    from transformers.utils import logging as told

    told.disable_progress_bar()
    told.set_verbosity_error()
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "critical")  # for when it is imported yet
    logging.getLogger("diffusers").setLevel(logging.CRITICAL)


def quiet_drawing() -> None:
    """Nor bars of the library that draws, which this imports."""
    quiet_loading()
    from diffusers.utils import logging as told

    told.disable_progress_bar()

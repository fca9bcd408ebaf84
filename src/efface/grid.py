"""Pictures side by side: a labelled row a prompt, a labelled column a seed."""

import io
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont
from PIL.Image import Image as Picture

from efface.core import EffaceError

READABLE = 128
"""Smaller pictures are doubled until they are this wide."""
GAP, LABELS, TEXT = 6, 150, 14
"""Pixels between pictures, of the label column, of a line of text."""


class Row(NamedTuple):
    """Pictures that belong together."""

    label: str
    pictures: Sequence[Picture]


def lay(rows: Sequence[Row], columns: Sequence[str] = ()) -> Picture:
    """One picture of all: row labels to the left, column labels on top."""
    widths = {len(row.pictures) for row in rows}
    if len(widths) != 1 or not min(widths):
        raise EffaceError("nothing to lay in a grid: every row needs the same number of pictures")
    count = widths.pop()
    cell = _readable(rows[0].pictures[0]).size
    top = GAP + (TEXT + GAP if columns else 0)
    size = (LABELS + GAP + count * (cell[0] + GAP), top + len(rows) * (cell[1] + GAP))
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT - 2)
    for i, name in enumerate(columns):
        pen.text((LABELS + GAP + i * (cell[0] + GAP), GAP), name, "black", font)
    for j, row in enumerate(rows):
        y = top + j * (cell[1] + GAP)
        pen.multiline_text((GAP, y), textwrap.fill(row.label, 22), "black", font)
        for i, picture in enumerate(row.pictures):
            sheet.paste(_readable(picture), (LABELS + GAP + i * (cell[0] + GAP), y))
    return sheet


def _readable(picture: Picture) -> Picture:
    factor = 1
    while picture.width * factor < READABLE:
        factor *= 2
    size = (picture.width * factor, picture.height * factor)
    return picture if factor == 1 else picture.resize(size, Image.Resampling.LANCZOS)


def png(picture: Picture) -> bytes:
    """The picture as a PNG file's content."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()

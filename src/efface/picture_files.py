"""Pictures of a user's: opened upright as RGB, or one sentence on what is wrong with them."""

from pathlib import Path

from PIL import Image, UnidentifiedImageError
from PIL.ImageOps import exif_transpose

from efface.core import EffaceError

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
"""Files of a folder that are pictures."""
MOST_PIXELS = 1 << 26
"""Of one picture; larger ones are refused before they are read."""
NARROWEST = 8
"""Least side of a picture, and most times that one side is longer than the other."""


def open_pictures(folder: Path) -> list[Image.Image]:
    """Every picture of a folder in the order of names, or one sentence on what is wrong."""
    if not folder.is_dir():
        raise EffaceError(f"{folder} is no folder: give one that holds pictures of the concept")
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in ENDINGS)
    if not files:
        raise EffaceError(
            f"{folder} holds no picture: put one or more of the concept there, as "
            f"{', '.join(ENDINGS)}"
        )
    return [open_picture(file) for file in files]


def open_picture(file: Path) -> Image.Image:
    """One picture, upright, or one sentence on what is wrong."""
    try:
        with Image.open(file) as picture:
            wide, high = picture.size
            if wide * high > MOST_PIXELS or min(wide, high) * NARROWEST < max(wide, high, 64):
                raise EffaceError(
                    f"{file} is {wide} × {high}: it is scaled to a square without a crop, so give "
                    f"pictures of at least 8 pixels a side, one side at most {NARROWEST} times as "
                    f"long as the other, and at most {MOST_PIXELS} pixels"
                )
            return exif_transpose(picture).convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise EffaceError(f"{file} is no whole picture ({error}): take it out") from error

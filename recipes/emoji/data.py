"""Fetch the pinned icon sets, check their hashes, render every picture of the world once.

`python -m recipes.emoji.data` writes `.cache/emoji/pictures.npz`: `rgba` uint8 [n, 64, 64, 4] with
straight alpha, `large` at 128 pixels for fresh renderings, and the (concept, style) index of each.
"""

import hashlib
import io
import json
import re
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import resvg_py
from PIL import Image

from recipes.emoji.world import SIZE, STYLES, THINGS, Thing

CACHE = Path(".cache/emoji")
PACKAGES = {
    "emojibase-data": (
        "17.0.0",
        "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    ),
    "@iconify-json/emojione": (
        "1.2.3",
        "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
    ),
    "@iconify-json/fluent-emoji": (
        "1.2.7",
        "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
    ),
    "@iconify-json/fluent-emoji-flat": (
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    ),
    "@iconify-json/fxemoji": (
        "1.2.2",
        "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
    ),
    "@iconify-json/noto": (
        "1.2.9",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
    ),
    "@iconify-json/noto-v1": (
        "1.2.5",
        "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
    ),
    "@iconify-json/twemoji": (
        "1.2.5",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
    ),
}
"""npm package -> (version, sha256 of its tarball)."""
OWN_NAMES = {
    "fxemoji": {
        "wolf": "wolfface",
        "cat": "catside",
        "dog": "dogside",
        "panda": "pandaface",
        "eggplant": "aubergine",
        "corn": "earofmaize",
        "pizza": "sliceofpizza",
        "locomotive": "steamlocomotive",
        "dagger": "daggerknife",
        "cigarette": "smokingsymbol",
        "scissors": "blackscissors",
        "castle": "europeancastle",
        "house": "housebuilding",
        "pine tree": "evergreen",
        "sun": "sunrays",
        "gift": "present",
        "diamond": "gem",
    }
}
"""Icon names that no naming rule finds."""
OBJECT = 56
"""Side of the square the object fills, in pixels of a 64-pixel picture."""


@dataclass(frozen=True)
class Pictures:
    """`rgba`, `large`: uint8 [n, side, side, 4]; `thing`, `style`: int [n]; `held_out`: bool."""

    rgba: np.ndarray
    large: np.ndarray
    thing: np.ndarray
    style: np.ndarray
    held_out: np.ndarray


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write a file that takes the name `path` when it is whole.

    The processes of one training may begin together.
    """
    with TemporaryDirectory(dir=path.parent) as own:
        fresh = Path(own) / path.name
        yield fresh
        fresh.replace(path)


def fetch(package: str, folder: Path = CACHE) -> Path:
    """Download one pinned package with npm unless it is there; refuse a tarball of another hash."""
    version, digest = PACKAGES[package]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{package.removeprefix('@').replace('/', '-')}-{version}.tgz"
    if not path.exists():
        command = ["npm", "pack", f"{package}@{version}", "--silent"]
        with whole(path) as fresh:
            subprocess.run(command, cwd=fresh.parent, check=True, stdout=subprocess.DEVNULL)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != digest:
        raise ValueError(f"{path} has sha256 {found}, expected {digest}: delete it and run again")
    return path


def member(package: str, name: str) -> Any:
    """One JSON file out of a package's tarball."""
    with tarfile.open(fetch(package)) as tar:
        file = tar.extractfile(f"package/{name}")
        if file is None:
            raise FileNotFoundError(f"{package} holds no {name}")
        return json.load(file)


def render(icons: dict[str, Any], name: str, side: int) -> np.ndarray:
    """One icon on a transparent square, drawn at 4x and averaged down: uint8 [side, side, 4]."""
    icon = icons["icons"][name]
    box = [
        icon.get(k, icons.get(k, d))
        for k, d in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    ]
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    frame = f'viewBox="{" ".join(map(str, box))}" width="{4 * side}" height="{4 * side}"'
    svg = f"<svg {spaces} {frame}>{icon['body']}</svg>"
    big = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")
    inner = round(side * OBJECT / SIZE)
    small = big.convert("RGBa").resize((inner, inner), Image.Resampling.LANCZOS).convert("RGBA")
    canvas = Image.new("RGBA", (side, side))
    canvas.paste(small, ((side - inner) // 2, (side - inner) // 2))
    return np.asarray(canvas)


def held_out(thing: str, style: str) -> bool:
    """One (concept, style) pair in ten is never trained on; a hash decides which."""
    return hashlib.sha256(f"{thing}/{style}".encode()).digest()[0] < 26


def slug(text: str) -> str:
    """The icon sets' way to write a name: lower case, words joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def icon_names(thing: Thing) -> list[str]:
    """Names the icon sets may use for one concept, likeliest first."""
    charted = [chars(p) for p in ("noto", "fluent-emoji-flat", "twemoji")]
    known = [c.get(thing.code) or c.get(f"{thing.code}-fe0f") for c in charted]
    names = [n for n in [*known, slug(labels()[thing.code]), slug(thing.name)] if n]
    return names + [n.replace("-", "") for n in names]


@cache
def chars(icon_set: str) -> dict[str, str]:
    """Code point -> icon name, for the sets that chart it."""
    return dict(member(f"@iconify-json/{icon_set}", "chars.json"))


@cache
def labels() -> dict[str, str]:
    """Code point -> CLDR short name."""
    rows = member("emojibase-data", "en/data.json")
    return {row["hexcode"].lower().replace("-fe0f", ""): row["label"] for row in rows}


def build(things: Sequence[Thing]) -> Pictures:
    """Render every (concept, style) pair that exists."""
    rgba, large, thing, style, out = [], [], [], [], []
    for s, (style_name, package) in enumerate(STYLES.items()):
        icons = member(f"@iconify-json/{package}", "icons.json")
        aliases = {k: v["parent"] for k, v in icons.get("aliases", {}).items()}
        own = OWN_NAMES.get(package, {})
        for t, item in enumerate(things):
            names = [own[item.name]] if item.name in own else icon_names(item)
            found = [n for n in (aliases.get(n, n) for n in names) if n in icons["icons"]]
            if not found:
                continue
            rgba.append(render(icons, found[0], SIZE))
            large.append(render(icons, found[0], 2 * SIZE))
            thing.append(t)
            style.append(s)
            out.append(held_out(item.name, style_name))
    return Pictures(
        np.stack(rgba), np.stack(large), np.array(thing), np.array(style), np.array(out)
    )


@cache
def load(folder: Path = CACHE, things: Sequence[Thing] = THINGS) -> Pictures:
    """The rendered pictures of things, made on first use."""
    path = folder / "pictures.npz"
    if not path.exists():
        pictures = build(things)
        folder.mkdir(parents=True, exist_ok=True)
        with whole(path) as fresh:
            np.savez_compressed(fresh, **vars(pictures))
    with np.load(path) as data:
        return Pictures(**{k: data[k] for k in data.files})


def on_background(rgba: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Composite uint8 [..., 4] over a plain colour: uint8 [..., 3]."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    mixed = rgba[..., :3] * alpha + np.array(colour, np.float32) * (1 - alpha)
    return (mixed + 0.5).astype(np.uint8)


if __name__ == "__main__":
    found = load()
    counts = np.bincount(found.thing, minlength=len(THINGS))
    print(f"{len(THINGS)} concepts, {len(found.thing)} pictures, {found.held_out.sum()} held out")
    print("drawn by fewer than three sets:", [THINGS[i].name for i in np.flatnonzero(counts < 3)])

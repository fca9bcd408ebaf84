"""`efface models`: what is in the box."""

from pathlib import Path
from typing import Any

from efface.cli import show
from efface.cli.options import Json


def models(json: Json = False) -> None:
    """List the bundled models."""
    from efface.backbones.checkpoint import bundled

    found = [_describe(name, root) for name, root in bundled().items()]
    if json:
        show.as_json(found)
    elif found:
        show.rows(
            ["model", "concepts", "size", "class", "path"],
            [
                [m["name"], m["concepts"], show.size(m["bytes"]), m["class"], m["path"]]
                for m in found
            ],
        )
    else:
        show.facts({"models": "none are bundled: give a diffusers folder or a hub id"})


def _describe(name: str, root: Path) -> dict[str, Any]:
    from efface.backbones.checkpoint import Checkpoint

    words = root / "concepts.json"
    known = Checkpoint.read_json(words).get("concepts", []) if words.is_file() else []
    return {
        "name": name,
        "path": str(root),
        "bytes": sum(p.stat().st_size for p in root.rglob("*") if p.is_file()),
        "class": str(Checkpoint(root).index.get("_class_name")),
        "concepts": len(known),
    }

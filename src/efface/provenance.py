"""What a patch tells of itself, kept with a run, so that its report needs no other file."""

from pathlib import Path
from typing import Any

from efface.patch import load


def provenance(erased: str) -> dict[str, Any] | None:
    """Method, settings and measured facts of a patch; None for a model's folder."""
    if Path(erased).is_dir():
        return None
    patch = load(erased)
    return {
        "eraser": dict(patch.eraser),
        "facts": dict(patch.facts),
        "base": patch.base,
        "made": dict(patch.made),
    }

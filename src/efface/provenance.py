"""What a patch tells of itself, kept with a run, so that its report needs no other file."""

from typing import Any

from efface.patch import Patch


def provenance(patch: Patch) -> dict[str, Any]:
    """Method, settings and measured facts of a patch."""
    return {
        "eraser": dict(patch.eraser),
        "facts": dict(patch.facts),
        "base": patch.base,
        "made": dict(patch.made),
    }

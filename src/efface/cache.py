"""What efface keeps on disk to save time: where it is, and that it does not grow for ever."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`EFFACE_CACHE`, else efface's folder under the user's cache folder."""
    chosen = os.environ.get("EFFACE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(chosen).expanduser() if chosen else Path(base).expanduser() / "efface"


def forget(kind: str, keep: int) -> None:
    """Delete files of a kind but the `keep` newest; what cannot be deleted stays.

    `kind`: what their names begin with.
    """
    try:
        files = cache_folder().glob(f"{kind}-*.safetensors")
        newest = sorted(files, key=lambda p: p.stat().st_mtime, reverse=True)
        for stale in newest[keep:]:
            stale.unlink(missing_ok=True)
    except OSError:
        return

"""Which efface this is, to the letter: what one version left half-done, another must not finish."""

import hashlib
from functools import cache
from pathlib import Path


@cache
def edition(folder: Path = Path(__file__).parent) -> str:
    """Hash of every module's name and text."""
    told = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        text = path.read_bytes()
        told.update(f"{path.relative_to(folder).as_posix()} {len(text)}\n".encode() + text)
    return told.hexdigest()[:16]

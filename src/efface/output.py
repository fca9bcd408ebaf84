"""Files that are written whole or not at all, and checked before the work that fills them."""

import os
import secrets
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

from efface.core import EffaceError


def check_output(path: Path, *, force: bool) -> None:
    """Refuse, before the work is done, an output that could not be written after it."""
    try:
        if path.is_dir():
            raise EffaceError(f"{path} is a folder: name a file in it")
        if path.exists() and not force:
            raise EffaceError(f"{path} exists: choose another name or pass --force")
        if path.exists() and not path.is_file():
            raise EffaceError(f"{path} is not a regular file: choose another name")
        check_folder(path.parent)
    except OSError as error:
        raise EffaceError(f"{path} cannot be written ({error.strerror}): choose another") from error


def check_folder(folder: Path) -> None:
    """Refuse a folder that is missing or takes no new file."""
    if not folder.is_dir():
        raise EffaceError(f"{folder} is not a folder: create it first")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise EffaceError(
            f"{folder} cannot be written to ({error.strerror}): choose another folder"
        ) from error


def hold(folder: Path, what: str) -> FileLock:
    """Take a folder for this process alone until the lock is released; `what` writes into it."""
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise EffaceError(
            f"another {what} is writing into {folder}: wait for it, or name another folder"
        ) from None
    return lock


def write_whole(path: Path, data: bytes) -> None:
    """All of it or nothing: a temporary name beside `path`, fsync, rename."""
    temporary = path.with_name(f".efface-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)

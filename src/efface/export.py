"""A patch merged into a new diffusers folder, streamed file by file.

Every file is copied as it is; in the denoiser's safetensors, all variants of them, the bytes of the
edited tensors are then overwritten in place. An edit changes neither shape nor dtype, so headers,
metadata and every other tensor stay identical to the byte.
"""

import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from efface.backbones.checkpoint import Checkpoint
from efface.backbones.gated import check_mergeable
from efface.backbones.merge import Merge
from efface.backbones.model import open_folder
from efface.backbones.speaker import spoken
from efface.backbones.tensor_file import Stored, TensorFile
from efface.core import EffaceError, OnStep
from efface.output import check_folder
from efface.patch import Patch

STORY = "efface.json"
"""File in which an exported folder says what was merged into it."""
OTHER_WEIGHTS = (".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5", ".onnx", ".gguf")
"""Weights that cannot be edited here; beside edited ones they would bring the concept back."""


class Exported(NamedTuple):
    """What was written."""

    files: int
    tensors: int
    """How many were edited."""
    bytes: int
    left_out: list[str]


def check_target(target: Path, *, force: bool) -> None:
    """Refuse, before the work is done, a folder that could not be written after it."""
    try:
        if target.exists() and not force:
            raise EffaceError(f"{target} exists: choose another name or pass --force")
        if target.exists() and not _replaceable(target):
            raise EffaceError(
                f"{target} is no model folder: it is not replaced, choose another name"
            )
        check_folder(target.absolute().parent)
    except OSError as error:
        raise EffaceError(
            f"{target} cannot be written ({error.strerror}): choose another"
        ) from error


def _replaceable(target: Path) -> bool:
    """An empty folder or a model's; anything else is somebody's work."""
    if target.is_symlink() or not target.is_dir():
        return False
    return (target / "model_index.json").is_file() or not any(target.iterdir())


def export_folder(
    root: Path, patches: Sequence[Patch], target: Path, on_step: OnStep, *, force: bool = False
) -> Exported:
    """Copy the model at `root` to `target`, patches merged first to last; all or nothing."""
    check_mergeable(patches)
    check_target(target, force=force)
    target, root = target.absolute(), root.absolute()
    if target.resolve() == root.resolve():
        raise EffaceError(f"{target} is the model itself: choose another folder")
    model, checkpoint = open_folder(root), Checkpoint(root)
    checkpoint.check()
    merge = Merge(patches, model.fingerprint, model.where, model.names)
    edited = {model.component, *(name.partition("/")[0] for name in merge.changed)}
    files, left_out = _sort(root, edited)
    mark = secrets.token_hex(8)
    fresh, old = (target.with_name(f".efface-{mark}.{kind}") for kind in ("new", "old"))
    try:
        fresh.mkdir()
        changed = 0
        for i, file in enumerate(files):
            on_step("copying", i, len(files))
            copy = fresh / file
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / file, copy)
            if file.parts[0] in edited and file.suffix == ".safetensors":
                changed += _rewrite(checkpoint.open(root / file), copy, file.parts[0], merge)
        (fresh / STORY).write_text(told(patches) + "\n", encoding="utf-8")
        size = sum(p.stat().st_size for p in fresh.rglob("*") if p.is_file())
        _swap(fresh, target, old)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    on_step("copying", len(files), len(files))
    return Exported(len(files) + 1, changed, size, left_out)


def _sort(root: Path, edited: Collection[str]) -> tuple[list[Path], list[str]]:
    """Files to copy; files left out: hidden, or weights that would still know the concept."""
    files, left_out = list[Path](), list[str]()
    for path in sorted(root.rglob("*")):
        file = path.relative_to(root)
        if file == Path(STORY) or not path.is_file():
            continue
        hidden = any(part.startswith(".") for part in file.parts)
        weights = file.suffix in (*OTHER_WEIGHTS, ".safetensors")
        stale = weights and (
            len(file.parts) == 1 or (file.parts[0] in edited and file.suffix != ".safetensors")
        )
        if hidden or stale:
            left_out.append(str(file))
        else:
            files.append(file)
    return files, left_out


def _rewrite(held: TensorFile, copy: Path, component: str, merge: Merge) -> int:
    """Overwrite the edited tensors in the copy of a safetensors file; returns how many."""
    stored = spoken((f"{component}/{n}", n) for n in held.header)
    names = sorted(merge.changed & stored.keys())
    overwrite(
        copy,
        ((held.header[s], merge.weight(n, held.read(s))) for n in names for s in [stored[n]]),
    )
    return len(names)


def overwrite(copy: Path, tensors: Iterable[tuple[Stored, Tensor]]) -> None:
    """Write tensors, one at a time, where they are stored in a copy of their file."""
    with copy.open("r+b") as stream:
        for stored, tensor in tensors:
            data = tensor.contiguous().view(-1).view(torch.uint8).numpy().data
            assert len(data) == stored.stop - stored.start
            stream.seek(stored.start)
            stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def told(patches: Sequence[Patch]) -> str:
    """What was merged, in order, as JSON."""
    story: list[dict[str, Any]] = [
        {
            "erase": p.concept.erase,
            "toward": p.concept.toward,
            "eraser": dict(p.eraser),
            "base": p.base,
            "made": dict(p.made),
        }
        for p in patches
    ]
    return json.dumps({"patches": story}, indent=1)


def _swap(fresh: Path, target: Path, old: Path) -> None:
    """Put the new folder in the place of what was there, or leave that there."""
    if not target.exists():
        fresh.rename(target)
        return
    target.rename(old)
    try:
        fresh.rename(target)
    except BaseException:
        old.rename(target)
        raise

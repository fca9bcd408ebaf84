"""A patch merged into a copy of a single checkpoint file.

The file is copied as it is and the bytes of the edited tensors are then overwritten in place, one
tensor at a time, so header, metadata and every other tensor stay identical to the byte and a file
larger than memory can be exported.
"""

import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from efface.backbones.gated import check_mergeable
from efface.backbones.ldm_names import DENOISER
from efface.backbones.merge import Merge
from efface.backbones.open import open_file
from efface.backbones.single_file import SingleFile
from efface.backbones.tensor_file import Stored
from efface.core import EffaceError, OnStep
from efface.export import Exported, overwrite
from efface.output import check_output
from efface.patch import Patch

AVERAGED = "model_ema."
"""Prefix of the running averages that some files keep of their denoiser."""


def export_file(
    path: Path, patches: Sequence[Patch], target: Path, on_step: OnStep, *, force: bool = False
) -> Exported:
    """Copy the checkpoint file to `target`, patches merged first to last; all or nothing."""
    check_mergeable(patches)
    check_output(target, force=force)
    if target.resolve() == path.resolve():
        raise EffaceError(f"{target} is the model itself: choose another file")
    file = SingleFile(path)
    model, stored = open_file(file), file.readers()
    if lost := [e.param for p in patches for e in p.edits if e.param not in model.where]:
        raise EffaceError(
            f"the patch edits {lost[0]!r}, which efface does not find in single files: "
            "export a diffusers folder"
        )
    merge = Merge(patches, model.fingerprint, model.where, model.names)
    edited = [
        (name, place)
        for name in sorted(merge.changed)
        for place in _places(file, stored[name.removeprefix(f"{model.component}/")])
    ]

    def merged() -> Iterator[tuple[Stored, Tensor]]:
        for i, (name, place) in enumerate(edited):
            on_step("merging", i, len(edited))
            yield file.header[place], merge.weight(name, file.tensor(place))

    fresh = target.with_name(f".efface-{secrets.token_hex(8)}.tmp")
    try:
        on_step("copying", 0, 1)
        shutil.copyfile(path, fresh)
        overwrite(fresh, merged())
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
    on_step("merging", len(edited), len(edited))
    return Exported(1, len(edited), target.stat().st_size, [])


def _places(file: SingleFile, stored: str) -> list[str]:
    """The tensor, and its average where there is one: it would bring the concept back."""
    bare = stored.removeprefix(DENOISER).replace(".", "")
    average = f"{AVERAGED}diffusion_model{bare}"
    return [stored, average] if average in file.header else [stored]

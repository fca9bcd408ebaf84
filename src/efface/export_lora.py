"""A patch as a LoRA file, in the form of diffusers or in that of kohya's trainer.

kohya names the modules of SD 1 and 2 as diffusers does and those of the other families as their
original files do; WebUI, Forge and ComfyUI read both.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import safetensors.torch

from efface.backbones.gated import check_mergeable
from efface.backbones.ldm_names import DENOISER
from efface.backbones.model import Model, open_folder
from efface.backbones.open import open_file
from efface.backbones.original import original_names
from efface.backbones.single_file import SingleFile
from efface.core import EffaceError, OnStep
from efface.export import told
from efface.lora import DENSE_RANK, diffusers_form, factorise, kohya_form
from efface.output import check_output, write_whole
from efface.patch import Patch

Form = Literal["lora", "kohya"]
STORY = "efface_lora"
"""Key of the header's metadata that says what was exported; alone, it has one order."""
LOADERS = {
    "lora": ("sd", "sdxl", "sd3", "flux", "sana"),
    "kohya": ("sd", "sdxl", "sd3", "flux"),
}
"""Form -> families whose tools load it."""


class Written(NamedTuple):
    """What was written."""

    tensors: int
    """Matrices that the LoRA changes."""
    rank: int
    error: float
    """The largest share of a matrix's change that the rank left out; 0 for prompt maps."""
    bytes: int


def export_lora(
    path: Path,
    patches: Sequence[Patch],
    target: Path,
    on_step: OnStep,
    *,
    form: Form = "lora",
    rank: int = DENSE_RANK,
    force: bool = False,
) -> Written:
    """Write what the patches, first to last, do to the model at `path` as a LoRA.

    `path` is a diffusers folder or a checkpoint file; `rank` bounds changes that have no factors.
    """
    check_mergeable(patches)
    check_output(target, force=force)
    file = SingleFile(path) if path.is_file() else None
    model = open_folder(path) if file is None else open_file(file)
    if (kind := model.kind.name) not in LOADERS[form]:
        raise EffaceError(
            f"{path} is of the family {kind}, for which there is no loader of LoRA in the form "
            f"{form!r}: export it as a folder"
        )
    within = f"{model.component}/"
    if told_to := [e.param for p in patches for e in p.edits if not e.param.startswith(within)]:
        raise EffaceError(
            f"the patch edits {told_to[0]}, and a LoRA is written of the denoiser alone: export "
            "the whole model"
        )
    factors = factorise(model, patches, on_step, rank)
    if form == "lora":
        tensors = diffusers_form(factors)
    else:
        known = _modules(model, file)
        if lost := [name for name in factors if name not in known]:
            raise EffaceError(
                f"the patch changes {lost[0]}, whose name in kohya's form efface does not know: "
                "export it as 'lora'"
            )
        tensors = kohya_form(factors, known)
    data = safetensors.torch.save(tensors, {STORY: told(patches)})
    write_whole(target, data)
    ranks = [len(f.down) for f in factors.values()]
    error = max((f.error for f in factors.values()), default=0.0)
    return Written(len(factors), max(ranks, default=0), error, len(data))


def _modules(model: Model, file: SingleFile | None) -> dict[str, str]:
    """Component/name of the denoiser's tensors -> the name that kohya's form makes its own of."""
    within = f"{model.component}/"
    bare = {n.removeprefix(within): n for n in model.names if n.startswith(within)}
    if model.kind.name == "sd":
        known = {n: n for n in bare}
    elif file is None:
        known = original_names(model.kind.name, bare)
    else:
        known = dict(file.readers())
    return {bare[ours]: theirs.removeprefix(DENOISER) for ours, theirs in known.items()}

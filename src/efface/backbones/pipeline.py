"""The drawing half: a diffusers pipeline, seeded per case, and the view that a patch gives."""

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL.Image import Image

from efface.backbones.checkpoint import DAMAGE, Checkpoint, check_drawable, resolve
from efface.backbones.merge import Merge
from efface.backbones.model import open_pipeline
from efface.core import Case, EffaceError, OnStep
from efface.patch import Patch


def load_pipeline(spec: str, **options: Any) -> DiffusionPipeline:
    """The pipeline of a bundled name, folder or hub id; float32 unless `options` say else."""
    root = resolve(spec)
    check_drawable(root)
    checkpoint = Checkpoint(root)
    checkpoint.check()
    if any(checkpoint.variant(part) for part in checkpoint.weighted()):
        options = {"variant": "fp16", **options}
    if "torch_dtype" not in options:  # the older name of the same
        options = {"dtype": torch.float32, **options}
    try:
        pipe = DiffusionPipeline.from_pretrained(
            root,
            local_files_only=True,
            use_safetensors=True,
            **{"low_cpu_mem_usage": False} | options,
        )
    except DAMAGE as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EffaceError(
            f"{root} does not load as a pipeline ({reason}): download it again"
        ) from error
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module) and len(checkpoint.where(name)) < len(
            list(part.parameters())
        ):
            raise EffaceError(f"{root / name} lacks tensors of its model: download it again")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(
    pipe: DiffusionPipeline, cases: Sequence[Case], on_step: OnStep, batch: int = 16
) -> list[Image]:
    """One picture a case, in order; each case's noise comes from its own seed on the CPU."""
    pictures: list[Image | None] = [None] * len(cases)
    alike: dict[tuple[int, float, int], list[int]] = {}
    for i, case in enumerate(cases):
        if case.start is not None:
            raise EffaceError(f"drawing cannot start from a picture yet: {case.start}")
        rows = 0 if case.embeds is None else len(case.embeds)
        alike.setdefault((case.steps, case.guidance, rows), []).append(i)
    done, total = 0, sum(case.steps for case in cases)
    asked = _as_asked(pipe)
    for (steps, guidance, soft), members in alike.items():
        for chunk in (members[i : i + batch] for i in range(0, len(members), batch)):
            given = (
                _soft(pipe, cases, chunk) if soft else {"prompt": [cases[i].prompt for i in chunk]}
            )
            with torch.no_grad():
                drawn = pipe(
                    **given,
                    **asked,
                    num_inference_steps=steps,
                    guidance_scale=guidance,
                    callback_on_step_end=_reporter(on_step, done, len(chunk), total),
                    generator=[torch.Generator("cpu").manual_seed(cases[i].seed) for i in chunk],
                ).images
            for i, picture in zip(chunk, drawn, strict=True):
                pictures[i] = picture
            done += len(chunk) * steps
            on_step("drawing", done, total)
    return [p for p in pictures if p is not None]


def _as_asked(pipe: DiffusionPipeline) -> dict[str, Any]:
    """What keeps a pipeline from rounding its model's own size or rewriting prompts."""
    takes = inspect.signature(type(pipe).__call__).parameters
    asked: dict[str, Any] = {}
    if "use_resolution_binning" in takes:
        side = pipe.transformer.config.sample_size * pipe.vae_scale_factor
        asked |= {"use_resolution_binning": False, "height": side, "width": side}
    if "clean_caption" in takes:
        asked["clean_caption"] = False
    return asked


def _reporter(on_step: OnStep, done: int, batch: int, total: int) -> Callable[..., dict[str, Any]]:
    """A diffusers callback: each denoising step brings every picture of the batch one further."""

    def report(_: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        on_step("drawing", min(done + (step + 1) * batch, total), total)
        return tensors

    return report


def _soft(pipe: DiffusionPipeline, cases: Sequence[Case], chunk: Sequence[int]) -> dict[str, Any]:
    rows = [e for i in chunk if (e := cases[i].embeds) is not None]
    model = open_pipeline(pipe)
    if model.kind.name != "sd":
        raise EffaceError(
            f"{type(pipe).__name__} reads more than rows of text: soft prompts are for pipelines "
            "with one CLIP text encoder"
        )
    return {"prompt_embeds": torch.stack(rows).to(pipe.device, pipe.unet.dtype)}


def apply(pipe: DiffusionPipeline, *patches: Patch) -> DiffusionPipeline:
    """A view of `pipe` with the patches applied, first to last; `pipe` itself is untouched.

    Every tensor that no patch changes shares its storage with the original.
    """
    model = open_pipeline(pipe)
    component = model.component
    denoiser = getattr(pipe, component)
    merge = Merge(patches, model.fingerprint, model.where, model.names)
    shared = {id(t): t for t in [*denoiser.parameters(), *denoiser.buffers()]}
    view = copy.deepcopy(denoiser, shared)
    for name in merge.changed:
        owner, _, leaf = name.removeprefix(f"{component}/").rpartition(".")
        new = torch.nn.Parameter(merge.weight(name, model.weight(name)), requires_grad=False)
        setattr(view.get_submodule(owner), leaf, new)
    erased = copy.copy(pipe)  # settings, origin and all other parts are the original's
    setattr(erased, component, view)
    return erased

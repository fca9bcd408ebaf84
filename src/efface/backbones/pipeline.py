"""The drawing half: a diffusers pipeline, seeded per case, and the view of it that a patch gives."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL.Image import Image

from efface.backbones.checkpoint import resolve
from efface.backbones.merge import Merge
from efface.backbones.model import open_pipeline
from efface.core import Case, EffaceError, OnStep
from efface.patch import Patch


def load_pipeline(spec: str, **options: Any) -> DiffusionPipeline:
    """The pipeline of a bundled name, folder or hub id, without progress bars of its own."""
    root = resolve(spec)
    try:
        pipe = DiffusionPipeline.from_pretrained(root, local_files_only=True, use_safetensors=True, **options)
    except (OSError, ValueError, KeyError) as error:
        raise EffaceError(f"{root} does not load as a pipeline ({error}): download it again") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: DiffusionPipeline, cases: Sequence[Case], on_step: OnStep, batch: int = 16) -> list[Image]:
    """One picture a case, in order; each case's noise comes from its own seed on the CPU."""
    pictures: list[Image | None] = [None] * len(cases)
    alike: dict[tuple[int, float, bool], list[int]] = {}
    for i, case in enumerate(cases):
        alike.setdefault((case.steps, case.guidance, case.embeds is None), []).append(i)
    done = 0
    for (steps, guidance, worded), members in alike.items():
        for chunk in (members[i : i + batch] for i in range(0, len(members), batch)):
            given = {"prompt": [cases[i].prompt for i in chunk]} if worded else _soft(pipe, cases, chunk)
            with torch.no_grad():
                drawn = pipe(
                    **given,
                    num_inference_steps=steps,
                    guidance_scale=guidance,
                    generator=[torch.Generator("cpu").manual_seed(cases[i].seed) for i in chunk],
                ).images
            for i, picture in zip(chunk, drawn, strict=True):
                pictures[i] = picture
            done += len(chunk)
            on_step("drawing", done, len(cases))
    return [p for p in pictures if p is not None]


def _soft(pipe: DiffusionPipeline, cases: Sequence[Case], chunk: Sequence[int]) -> dict[str, Any]:
    rows = [e for i in chunk if (e := cases[i].embeds) is not None]
    return {"prompt_embeds": torch.stack(rows).to(pipe.device, pipe.unet.dtype)}


def apply(pipe: DiffusionPipeline, *patches: Patch) -> DiffusionPipeline:
    """A view of `pipe` with the patches applied, first to last; `pipe` itself is untouched.

    Every tensor that no patch changes shares its storage with the original.
    """
    model = open_pipeline(pipe)
    component = model.component
    denoiser = getattr(pipe, component)
    weights = {f"{component}/{n}": p for n, p in denoiser.named_parameters()}
    merge = Merge(patches, model.fingerprint, [n for n, _ in model.readers()], weights)
    shared = {id(t): t for t in [*denoiser.parameters(), *denoiser.buffers()]}
    view = copy.deepcopy(denoiser, shared)
    for name in merge.changed:
        owner, _, leaf = name.removeprefix(f"{component}/").rpartition(".")
        new = torch.nn.Parameter(merge.weight(name, weights[name]), requires_grad=False)
        setattr(view.get_submodule(owner), leaf, new)
    erased = type(pipe)(**{**pipe.components, component: view})
    erased.set_progress_bar_config(disable=True)
    return erased

"""The drawing half: a diffusers pipeline, seeded per case, and the view that a patch gives."""

import copy
import inspect
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import AutoPipelineForImage2Image, DiffusionPipeline
from PIL import Image
from torch import Tensor

from efface.backbones.between import Change, begin, put_back, take_over
from efface.backbones.checkpoint import DAMAGE, Checkpoint, check_drawable, resolve
from efface.backbones.churn import Churn, churned
from efface.backbones.denoiser import uncompiled
from efface.backbones.gated import attach, check_gates
from efface.backbones.learnt import edits_of
from efface.backbones.merge import Merge
from efface.backbones.model import open_pipeline
from efface.backbones.products import fast_products
from efface.backbones.speaker import spoken
from efface.core import Case, Concept, EffaceError, OnStep
from efface.patch import Patch

Say = Callable[[Sequence[str]], Tensor]
"""Prompts to the rows that the denoiser reads, [prompts, tokens, width]."""


class Artist(NamedTuple):
    """A pipeline, and the rows of prompts where they are known already."""

    pipe: DiffusionPipeline
    say: Say | None


def load_pipeline(spec: str, **options: Any) -> DiffusionPipeline:
    """The pipeline of a bundled name, folder or hub id; float32 unless `options` say else."""
    root = resolve(spec)
    check_drawable(root)
    checkpoint = Checkpoint(root)
    checkpoint.check()
    if any(checkpoint.variant(part) for part in checkpoint.weighted()):
        options = {"variant": "fp16", **options}
    # Diffusers wants to be told of parts that are not there (SD 3 without its T5).
    options = {
        part: None for part, kind in checkpoint.index.items() if kind == [None, None]
    } | options
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


def alike(case: Case) -> Hashable:
    """Cases of equal answers can be drawn in one batch."""
    rows = None if case.embeds is None else len(case.embeds)
    started = None if case.start is None else case.strength
    how = case.hole, case.handed, case.churn, case.churn_scale, case.learnt
    return case.steps, case.guidance, rows, started, case.size, *how


def draw(
    pipe: DiffusionPipeline,
    cases: Sequence[Case],
    on_step: OnStep,
    batch: int = 16,
    say: Say | None = None,
    base: Artist | None = None,
) -> list[Image.Image]:
    """One picture a case, in order; each case's noise comes from its own seed on the CPU.

    `say`: the rows of prompts, where they are known already; None leaves it to the pipeline.
    `base`: who draws the first steps of cases that ask for that.
    """
    pictures: list[Image.Image | None] = [None] * len(cases)
    groups: dict[Hashable, list[int]] = {}
    for i, case in enumerate(cases):
        groups.setdefault(alike(case), []).append(i)
    done, total = 0, sum(case.steps for case in cases)
    for members in groups.values():
        for chunk in (members[i : i + batch] for i in range(0, len(members), batch)):
            some = [cases[i] for i in chunk]
            model = pipe if some[0].learnt is None else _with(pipe, some[0].learnt)
            artist, given = _order(model, some, say)
            change, steps = _change(model, some, base), _steps(some)
            if some[0].churn:
                churn = Churn(some[0].churn, some[0].churn_scale, steps["generator"])
                artist = churned(artist, churn)
            with torch.no_grad(), fast_products(2 * len(chunk), pipe.device):
                drawn = artist(
                    **given,
                    **steps,
                    callback_on_step_end=_reporter(on_step, done, len(chunk), total, change),
                ).images
            for i, picture in zip(chunk, drawn, strict=True):
                pictures[i] = picture
            done += sum(case.steps for case in some)
            on_step("drawing", done, total)
    return [p for p in pictures if p is not None]


def _steps(cases: Sequence[Case]) -> dict[str, Any]:
    """How cases of one batch are drawn."""
    return {
        "num_inference_steps": cases[0].steps,
        "guidance_scale": cases[0].guidance,
        "generator": [torch.Generator("cpu").manual_seed(case.seed) for case in cases],
    }


def _change(pipe: DiffusionPipeline, cases: Sequence[Case], base: Artist | None) -> Change | None:
    """What is done to latents between steps."""
    if cases[0].hole:
        clean = open_pipeline(pipe).denoiser().latents([_opened(pipe, case) for case in cases])
        return put_back(clean, cases[0].hole, [case.seed for case in cases])
    if not (steps := cases[0].handed):
        return None
    if base is None:
        raise EffaceError("no base model is there to draw the first steps")
    if cases[0].churn:
        raise EffaceError("a drawing that the base model begins goes on with its own sampler")
    artist, given = _order(base.pipe, cases, base.say)
    return take_over(begin(artist, steps, **given, **_steps(cases)), steps)


def _order(
    pipe: DiffusionPipeline, cases: Sequence[Case], say: Say | None
) -> tuple[Any, dict[str, Any]]:
    """The pipeline that draws such cases, and what it is told of these."""
    given = _as_asked(pipe)
    if (size := cases[0].size) is not None:
        given |= {"width": size[0], "height": size[1]}
    if cases[0].embeds is not None:
        given |= _soft(pipe, [case.embeds for case in cases if case.embeds is not None])
    elif say is not None:
        given |= _soft(pipe, list(say([case.prompt for case in cases])))
    else:
        given["prompt"] = [case.prompt for case in cases]
    if cases[0].start is None or cases[0].hole:
        return pipe, given
    given["image"] = [_opened(pipe, case) for case in cases]
    given["strength"] = cases[0].strength
    given = {k: v for k, v in given.items() if k not in ("width", "height")}
    return _redrawing(pipe), given


def _redrawing(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """The same parts as a pipeline that starts from a picture (SDEdit, arXiv:2108.01073)."""
    try:
        other = AutoPipelineForImage2Image.from_pipe(pipe)
    except ValueError as error:
        raise EffaceError(
            f"{type(pipe).__name__} cannot start from a picture: leave image-to-image out"
        ) from error
    other.set_progress_bar_config(disable=True)
    return other


def _opened(pipe: DiffusionPipeline, case: Case) -> Image.Image:
    """The picture to start from, in the size that is drawn."""
    assert case.start is not None
    try:
        with Image.open(case.start) as file:
            picture = file.convert("RGB")
    except OSError as error:
        raise EffaceError(f"{case.start} is no picture to start from ({error})") from error
    return picture if case.size is None else picture.resize(case.size)


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


def _reporter(
    on_step: OnStep, done: int, batch: int, total: int, change: Change | None
) -> Callable[..., dict[str, Any]]:
    """A diffusers callback: each denoising step brings every picture of the batch one further."""

    def report(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        on_step("drawing", min(done + (step + 1) * batch, total), total)
        if change is not None:
            tensors["latents"] = change(pipe, step, tensors["latents"])
        return tensors

    return report


def reads_rows(pipe: DiffusionPipeline) -> bool:
    """Whether the rows of one text encoder are all that the pipeline draws from."""
    return open_pipeline(pipe).kind.name == "sd"


def _soft(pipe: DiffusionPipeline, rows: Sequence[Tensor]) -> dict[str, Any]:
    if not reads_rows(pipe):
        raise EffaceError(
            f"{type(pipe).__name__} reads more than rows of text: soft prompts are for pipelines "
            "with one CLIP text encoder"
        )
    return {"prompt_embeds": torch.stack(list(rows)).to(pipe.device, pipe.unet.dtype)}


def apply(pipe: DiffusionPipeline, *patches: Patch) -> DiffusionPipeline:
    """A view of `pipe` with the patches applied, first to last; `pipe` itself is untouched.

    Every tensor that no patch changes shares its storage with the original. The view of a compiled
    denoiser is not compiled.
    """
    model = open_pipeline(pipe)
    merge = Merge(patches, model.fingerprint, model.where, model.names)
    gates = [gate for patch in patches for gate in patch.gates]
    check_gates(model, gates)
    changed = {name: merge.weight(name, model.weight(name)) for name in merge.changed}
    touched = [*changed, *(gate.site for gate in gates)]
    erased = copy.copy(pipe)  # settings, origin and all other parts are the original's
    for component in {model.component, *(name.partition("/")[0] for name in touched)}:
        view = _view(uncompiled(getattr(pipe, component)))
        setattr(erased, component, view)
        real = spoken((f"{component}/{name}", name) for name, _ in view.named_parameters())
        for name in changed.keys() & real.keys():
            owner, _, leaf = real[name].rpartition(".")
            new = torch.nn.Parameter(changed[name], requires_grad=False)
            setattr(view.get_submodule(owner), leaf, new)
    gates = [gate for patch in patches for gate in patch.gates]
    check_gates(model, gates)
    encoders = {c for gate in gates if (c := gate.site.partition("/")[0]) != model.component}
    for name in encoders:
        if getattr(erased, name) is getattr(pipe, name):
            setattr(erased, name, _view(getattr(pipe, name)))
    attach(erased, open_pipeline(erased), gates)
    return erased


@lru_cache(maxsize=1)
def _with(pipe: DiffusionPipeline, learnt: Path) -> DiffusionPipeline:
    """A view of `pipe` with a LoRA put on."""
    base = open_pipeline(pipe).fingerprint
    return apply(pipe, Patch(Concept("", ("",)), {}, base, edits=edits_of(learnt)))


def _view(module: torch.nn.Module) -> torch.nn.Module:
    """The module anew, with the same tensors."""
    shared = {id(t): t for t in [*module.parameters(), *module.buffers()]}
    return copy.deepcopy(module, shared)

"""Training a small LoRA on a denoiser, whatever was done to it, and keeping it at several lengths.

W + B A with A and B of low rank, in float32, beside every matrix of the attentions (LoRA,
arXiv:2106.09685); B begins at 0, so the model begins as it is. The base's own loss is descended on
pictures under the prompts that they are learnt as. Weights are handed to the denoiser and gates
that stand in it stay, so that what is trained on is the model as it draws, less its guides.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from efface.backbone import Backbone, Denoiser
from efface.cache import cache_folder, forget
from efface.core import EffaceError, Said, quiet
from efface.edition import edition
from efface.likeness import misfit, noised
from efface.lora import Factors, diffusers_form
from efface.moments import digest, said_by, say, spread
from efface.train import Standing, Weights, train

ENDS = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")
"""Matrices of attentions in every family, as diffusers names them."""
REMEMBERED = 100
"""Files of earlier trainings that the cache keeps."""
UP, DOWN = " up", " down"
"""What names B and A of a matrix."""


class Taught(NamedTuple):
    """What is learnt."""

    latents: Float[Tensor, "n c h w"]
    prompts: Sequence[str]
    """Each picture is learnt as one of these, in turn."""


class Course(NamedTuple):
    """How it is learnt."""

    stops: Sequence[int]
    """Steps after which it is kept, ascending."""
    rank: int
    rate: float
    """Adam's."""
    batch: int
    seed: int


def begun(denoiser: Denoiser, rank: int, rng: Generator) -> dict[str, Tensor]:
    """A within N(0, 1/rank²), B at 0."""
    found = dict[str, Tensor]()
    for name in denoiser.names():
        if not name.endswith(ENDS) or denoiser.weight(name).ndim != 2:
            continue
        out, width = denoiser.weight(name).shape
        down = torch.randn(rank, width, generator=rng) / rank
        found |= {name + DOWN: down.to(denoiser.device)}
        found |= {name + UP: torch.zeros(out, rank, device=denoiser.device)}
    if not found:
        raise EffaceError("the denoiser has no attention whose matrices a LoRA could stand beside")
    return found


def merged(denoiser: Denoiser, weights: Weights) -> dict[str, Tensor]:
    """W + B A by name, float32; differentiable in A and B."""
    names = [name.removesuffix(UP) for name in weights if name.endswith(UP)]
    return {
        name: denoiser.weight(name).detach().float() + weights[name + UP] @ weights[name + DOWN]
        for name in names
    }


def learnt(model: Backbone, taught: Taught, course: Course) -> list[Path]:
    """The LoRA's file at each stop, from the cache if the same was learnt before."""
    denoiser, rng = model.denoiser(), Generator().manual_seed(course.seed)
    said = say(model, taught.prompts)
    key = _key(denoiser, said, taught, course)
    kept = {stop: cache_folder() / f"lora-{key}-{stop}.safetensors" for stop in course.stops}
    if all(path.exists() for path in kept.values()):
        return list(kept.values())
    forget("lora", REMEMBERED)
    which = spread(len(taught.latents), len(taught.prompts))
    whole = "-".join(map(str, course.stops))

    def loss(weights: Weights, step: int, rng: Generator) -> Tensor:
        if step in kept:
            _keep(kept[step], weights)
        picks = torch.randint(len(taught.latents), (course.batch,), generator=rng)
        times = denoiser.noise.anywhen(course.batch, rng)
        seen = noised(denoiser, taught.latents[picks], times, rng)
        under = said_by(said, which[picks])
        return misfit(denoiser, seen, under, merged(denoiser, weights)).mean()

    trained = train(
        begun(denoiser, course.rank, rng),
        loss,
        steps=course.stops[-1],
        rate=course.rate,
        rng=rng,
        on_step=quiet,
        standing=Standing(cache_folder() / f"run-lora-{key}-{whole}.safetensors"),
    )
    _keep(kept[course.stops[-1]], trained.weights)
    return list(kept.values())


def _keep(path: Path, weights: Weights) -> None:
    names = [name.removesuffix(UP) for name in weights if name.endswith(UP)]
    factors = {n: Factors(weights[n + UP], weights[n + DOWN], 0.0) for n in names}
    Standing(path).write(diffusers_form(factors), {})


def _key(denoiser: Denoiser, said: Said, taught: Taught, course: Course) -> str:
    """Tells trainings apart, except for how long they are."""
    told = json.dumps([edition(), digest(denoiser), list(taught.prompts), *course[1:]])
    asked = hashlib.sha256(told.encode())
    for encoded in said.values():
        asked.update(encoded.states.detach().cpu().numpy().tobytes())
    asked.update(taught.latents.detach().cpu().numpy().tobytes())
    return asked.hexdigest()[:24]

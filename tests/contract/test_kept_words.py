"""What is kept moves less than what is erased, on a model whose words part: trained methods.

Measured where pipelines are: guided predictions g = e₀ + s (e_p − e₀) along base drawings of each
prompt, Σ|g' − g|² / Σ|g − e₀|², so that 1 is as far as all that the prompt adds.
"""

from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Generator

from efface import erasers
from efface.backbones.model import open_pipeline
from efface.backbones.pipeline import apply, load_pipeline
from efface.core import Concept, quiet
from efface.moments import Moments, draw, say
from efface.settings import describe
from tests.contract.test_erasers import GUIDING, TRAINED

GUIDANCE, STEPS = 3.0, 6
ERASED, KEPT = "dog", ("castle", "violin")
SHORT: dict[str, Any] = {
    "steps": 8,
    "erase_steps": 8,
    "attack_steps": 1,
    "batch": 2,
    "drawings": 1,
    "drawing_steps": 6,
    "keep_drawings": 6,
    "warmup": 0,
}


@pytest.fixture(scope="module")
def pipe() -> DiffusionPipeline:
    return load_pipeline("emoji")


@pytest.fixture(scope="module")
def drawn(pipe: DiffusionPipeline) -> dict[str, Moments]:
    """A base drawing of each word, at times that fall."""
    model, rng = open_pipeline(pipe), Generator().manual_seed(7)
    return {
        word: draw(
            model.denoiser(), say(model, [f"a {word}"]), say(model, [""]), torch.tensor([0]),
            steps=STEPS, guidance=GUIDANCE, rng=rng, on_step=quiet,
        )
        for word in (ERASED, *KEPT)
    }  # fmt: skip


def moved(base: DiffusionPipeline, erased: DiffusionPipeline, word: str, at: Moments) -> float:
    """As a pipeline calls it: both halves of the same latents at once."""
    rows = open_pipeline(base).encode(["", f"a {word}"]).states
    off = says = 0.0
    for latents, time in zip(at.latents, at.times, strict=True):
        guided = list[torch.Tensor]()
        for pipe in (base, erased):
            twice = latents.repeat(2, 1, 1, 1)
            with torch.no_grad():
                empty, said = pipe.unet(twice, time, encoder_hidden_states=rows).sample.chunk(2)
            guided += [empty, empty + GUIDANCE * (said - empty)]
        nothing, before, _, after = guided
        off += (after - before).square().sum().item()
        says += (before - nothing).square().sum().item()
    return off / says


def gone_and_held(
    name: str, pipe: DiffusionPipeline, drawn: dict[str, Moments]
) -> tuple[float, list[float]]:
    """How far a quick fit moves the concept, and each kept word."""
    model = open_pipeline(pipe)
    known = {s.name for s in describe(erasers.find(name))}
    settings = {k: v for k, v in SHORT.items() if k in known}
    if "sparsity" in known:
        settings |= {"steps": 12, "rate": 0.4, "keep_weight": 4.0}  # logits begin far from pruning
    keep = tuple(w for w in model.vocabulary if w != ERASED)
    concept, rng = Concept(ERASED, (ERASED,), keep=keep), Generator().manual_seed(0)
    erased = apply(pipe, erasers.build(name, **settings).fit(model, concept, rng, quiet))
    gone, *held = (moved(pipe, erased, word, drawn[word]) for word in (ERASED, *KEPT))
    return gone, held


@pytest.mark.parametrize("name", TRAINED)
def test_trained_methods_move_kept_words_less(
    name: str, pipe: DiffusionPipeline, drawn: dict[str, Moments]
) -> None:
    gone, held = gone_and_held(name, pipe, drawn)
    assert gone > 0.2
    assert max(held) < 0.6 * gone


@pytest.mark.parametrize("name", GUIDING)
def test_guides_do_not(name: str, pipe: DiffusionPipeline, drawn: dict[str, Moments]) -> None:
    """By their formulas they weigh on every prompt: no part of them asks what is kept.

    `negative` moves all by (1 − s)(e_c − e₀); SLD subtracts most where prompt and concept differ.
    """
    gone, held = gone_and_held(name, pipe, drawn)
    assert gone > 0.2
    assert min(held) > gone

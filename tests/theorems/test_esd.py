"""ESD against its paper: Eq. 7 written out slowly, and what must and must not move."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from torch import Generator, Tensor

from efface.backbones.model import Model, open_folder, open_pipeline
from efface.backbones.pipeline import apply, load_pipeline
from efface.core import Concept, EffaceError, quiet
from efface.erasers import find
from efface.layers import chosen
from efface.lesson import away
from efface.moments import Moments, said_by
from efface.patch import Patch
from tests import quick
from tests.equal import bits, contents
from tests.families import build_family
from tests.quick import CONCEPT, SHORT

ESD: Any = find("esd")
SD14 = {
    "cross_attention_dim": 768,
    "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": 8,
}


def fit(model: Model, concept: Concept = CONCEPT, seed: int = 0, **settings: Any) -> Patch:
    return quick.fit("esd", model, concept, seed, **{"steps": 3, **settings})


def test_no_steps_no_change(model: Model) -> None:
    patch = fit(model, steps=0)
    assert patch.edits
    assert not any(e.a.any() for e in patch.edits)
    assert max(patch.facts["moved"].values()) < 1e-9


@pytest.mark.parametrize("layers", ["x", "kv", "u", "self", "full"])
def test_only_the_listed_parameters_move(layers: Any, tiny: Path) -> None:
    pipe = load_pipeline(str(tiny))
    model = open_pipeline(pipe)
    listed = chosen([f"unet/{n}" for n, _ in pipe.unet.named_parameters()], layers)
    patch = fit(model, layers=layers)
    assert [e.param for e in patch.edits] == listed
    assert all(e.a.any() for e in patch.edits if not e.param.endswith("to_k.bias"))
    erased = dict(apply(pipe, patch).unet.named_parameters())
    same = {f"unet/{n}" for n, p in pipe.unet.named_parameters() if torch.equal(p, erased[n])}
    assert same.isdisjoint(listed)
    assert len(same) + len(listed) == len(erased)


def test_layers_part_the_denoiser() -> None:
    """On SD 1.4's shapes: the counts that its config gives, worked out by hand."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD14)
    sizes = {f"unet/{n}": p.numel() for n, p in unet.named_parameters()}

    def count(layers: Any) -> int:
        return sum(sizes[n] for n in chosen(list(sizes), layers))

    widths = [320] * 5 + [640] * 5 + [1280] * 6  # of the 16 blocks
    text = sum(2 * 768 * d for d in widths)
    assert count("kv") == text == 19_169_280
    assert count("x") == text + sum(2 * d * d + d for d in widths) == 43_962_560
    assert count("self") == sum(4 * d * d + d for d in widths) == 49_574_080
    assert count("full") == sum(sizes.values()) == 859_520_964
    time = 320 * 1280 + 1280 + 1280 * 1280 + 1280
    out = 2 * 320 + 320 * 4 * 9 + 4
    assert count("u") == count("full") - count("x") - time - out == 813_495_680


def test_the_two_conventions_are_one(model: Model) -> None:
    """ε_c − (1 + η)(ε_c − ε₀) = ε₀ − η (ε_c − ε₀)."""
    paper, code = (fit(model, start=s, guidance=g) for s, g in (("nothing", 1.0), ("concept", 2.0)))
    for one, other in zip(paper.edits, code.edits, strict=True):
        torch.testing.assert_close(one.a, other.a, rtol=1e-2, atol=1e-5)
    apart = fit(model, start="concept", guidance=1.0)
    gaps = [(a.a - b.a).abs().max() for a, b in zip(paper.edits, apart.edits, strict=True)]
    assert max(gaps) > 1e-3


def test_equation_seven_by_numbers() -> None:
    one = torch.ones(1, 1, 1, 1)
    moments = Moments(
        one, torch.ones(1), torch.zeros(1, dtype=torch.long), 5 * one, 3 * one,
        torch.zeros(1, dtype=torch.long), one, one,
    )  # fmt: skip
    assert away(moments, 1.0, "nothing").item() == 3 - 1 * (5 - 3)
    assert away(moments, 2.0, "concept").item() == 5 - 2 * (5 - 3)
    assert away(moments, 1.0, "concept").item() == 3


def test_toward_itself_without_a_push_nothing_moves(model: Model) -> None:
    patch = fit(model, Concept("cat", ("cat",), ("cat",), ("house",)), guidance=0.0)
    other = fit(model)
    assert patch.facts["loss"][0] < 1e-10
    assert max(e.a.abs().max().item() for e in other.edits) > 1e-4
    assert patch.facts["moved"]["kept"] < 1e-3 * other.facts["moved"]["kept"]


def test_it_learns_what_equation_seven_says(model: Model) -> None:
    """Over all moments, not only those of an update; before, the concept is as far as η + 1."""
    eraser = ESD(**SHORT, steps=30, layers="full", keep_weight=0.0)
    lesson = eraser.lesson(model, CONCEPT, Generator().manual_seed(0), quiet)
    goal = away(lesson.erased.moments, 1.0, "nothing")
    patch = eraser.fit(model, CONCEPT, Generator().manual_seed(0), quiet)
    new = {e.param: model.weight(e.param) + e.a for e in patch.edits}
    said = said_by(lesson.named, lesson.erased.moments.pair)

    def far(weights: dict[str, Tensor]) -> float:
        out = lesson.denoiser.predict(*lesson.erased.moments[:2], said, weights)
        return (out - goal).square().sum().item()

    says = (lesson.erased.moments.named - lesson.erased.moments.other).square().sum().item()
    assert far({}) == pytest.approx(4 * says, rel=1e-3)
    assert far(new) < 0.5 * far({})


def test_kept_prompts_move_less_when_they_weigh(model: Model) -> None:
    loose, held = (fit(model, steps=12, rate=3e-3, keep_weight=w) for w in (0.0, 10.0))
    assert held.facts["moved"]["kept"] < 0.5 * loose.facts["moved"]["kept"]


def test_it_stops_at_its_limit(model: Model) -> None:
    freely = fit(model, steps=25, rate=3e-3)
    limit = 0.5 * freely.facts["moved"]["kept"]
    patch = fit(model, steps=25, rate=3e-3, most_moved=limit)
    assert patch.facts["steps"] < 25
    assert patch.facts["moved"]["kept"] <= limit
    assert "limit" in patch.facts["stopped"]


@pytest.mark.parametrize("output", ["epsilon", "v_prediction"])
def test_training_is_the_literal_loop(output: str, tiny: Path) -> None:
    """The same x_t, one example at a time, with the library's U-Net and nothing of ours."""
    pipe = load_pipeline(str(tiny))
    pipe.scheduler.register_to_config(prediction_type=output)
    concept = Concept("cat", ("cat",))
    model = open_pipeline(pipe)
    eraser = ESD(**{**SHORT, "layers": "kv", "keep_weight": 0.0, "steps": 3})
    patch = eraser.fit(model, concept, Generator().manual_seed(5), quiet)
    for edit, weight in zip(patch.edits, literal(pipe, model, eraser, output), strict=True):
        ours = model.weight(edit.param) + edit.a
        torch.testing.assert_close(ours, weight, rtol=1e-3, atol=2e-5)
        assert (edit.a.abs() > 1e-4).any()


def literal(pipe: DiffusionPipeline, model: Model, eraser: Any, output: str) -> list[Tensor]:
    """ESD as the paper's algorithm reads, on copies of the U-Net."""
    rng = Generator().manual_seed(5)
    frozen = pipe.unet
    edited = UNet2DConditionModel(**frozen.config)
    edited.load_state_dict(frozen.state_dict())
    edited.eval()
    named = {n: p for n, p in edited.named_parameters() if "attn2.to_k" in n or "attn2.to_v" in n}
    words, nothing = model.encode(["cat"]).states, model.encode([""]).states
    drawn = drawings(frozen, pipe, words, nothing, eraser, output, rng)
    torch.randint(2**62, (1,), generator=rng)  # the seed of the kept drawings
    optimiser = torch.optim.Adam(list(named.values()), lr=eraser.rate)
    for _ in range(eraser.steps):
        picks = torch.randint(len(drawn), (eraser.batch,), generator=rng).tolist()
        loss = torch.zeros(())
        for latents, time in (drawn[i] for i in picks):
            with torch.no_grad():
                ahead = frozen(latents, time, words).sample
                away = frozen(latents, time, nothing).sample
            goal = away - eraser.guidance * (ahead - away)
            off = edited(latents, time, words).sample - goal
            loss = loss + off.square().mean() / eraser.batch
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return [p.detach() for p in named.values()]


@torch.no_grad()
def drawings(
    unet: Any, pipe: Any, words: Tensor, nothing: Tensor, eraser: Any, output: str, rng: Generator
) -> list[tuple[Tensor, int]]:
    """Every x_t of guided DDIM drawings with the time it was met at, as the moments are ordered."""
    seeded = Generator().manual_seed(int(torch.randint(2**62, (1,), generator=rng)))
    latents = torch.randn(eraser.drawings, 4, 8, 8, generator=seeded)
    offset = torch.rand(1, generator=seeded).item()
    steps = eraser.drawing_steps
    times = [int((steps - 1 - k + offset) * 1000 / steps) for k in range(steps)]
    kept = pipe.scheduler.alphas_cumprod
    found = list[tuple[Tensor, int]]()
    for i, time in enumerate(times):
        found += [(one[None], time) for one in latents]
        ahead, away = (unet(latents, time, rows.expand(len(latents), -1, -1)).sample
                       for rows in (words, nothing))  # fmt: skip
        guided = away + eraser.drawing_guidance * (ahead - away)
        alpha, sigma = kept[time].sqrt(), (1 - kept[time]).sqrt()
        if output == "epsilon":
            clean, noise = (latents - sigma * guided) / alpha, guided
        else:
            clean, noise = alpha * latents - sigma * guided, alpha * guided + sigma * latents
        if i + 1 < steps:
            after = kept[times[i + 1]]
            latents = after.sqrt() * clean + (1 - after).sqrt() * noise
    return found


def test_drawings_of_the_edited_model_differ_once_it_is_edited(model: Model) -> None:
    once, anew = fit(model, steps=2), fit(model, steps=2, redraw=1)
    assert contents(once) != contents(anew)


@pytest.mark.parametrize("name", ["sdxl", "pixart", "sana", "sd3"])
def test_other_families(name: str, tmp_path: Path) -> None:
    model = open_folder(build_family(name, tmp_path / name))
    if name == "sd3":
        with pytest.raises(EffaceError, match=r"no cross-attention .* layers 'full'"):
            fit(model)
    patch = fit(model, layers="full" if name == "sd3" else "x", steps=6)
    pipe = load_pipeline(str(tmp_path / name))
    erased = open_pipeline(apply(pipe, patch))
    assert patch.facts["moved"]["erased"] > 1e-4
    changed = {e.param for e in patch.edits}
    assert any(bits(erased.weight(n)) != bits(model.weight(n)) for n in changed)


def test_bad_settings_are_refused() -> None:
    for wrong in ({"batch": 0}, {"rate": 0.0}, {"steps": -1}, {"keep_weight": -1.0}):
        with pytest.raises(EffaceError, match=next(iter(wrong))):
            ESD(**wrong)

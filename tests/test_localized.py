"""Where a concept is: the maps are the model's own, the mask and the penalty the paper's."""

from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from efface.backbones.attention import crossed, probabilities, seen
from efface.backbones.model import Model, open_folder
from efface.core import Encoded
from efface.localized import ELSE, masks, outside, side, words_of
from efface.moments import say
from efface.soft_prompts import SoftPrompts, behind
from tests.families import build_family

FAMILIES = ["sd", "sdxl", "pixart", "sana"]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return open_folder(build_family(request.param, tmp_path_factory.mktemp(request.param) / "m"))


def test_maps_are_what_the_layer_weighs_by(model: Model) -> None:
    """Each layer's output is Σ p V through its last matrix, padding hidden where it is hidden."""
    denoiser = model.denoiser()
    latents = torch.randn(2, *denoiser.shape, generator=Generator().manual_seed(0))
    checked = list[float]()

    def check(attn: Any, args: Any, given: Any, out: Tensor) -> None:
        weighed = probabilities(attn, args[0], **given)
        values = attn.to_v(given["encoder_hidden_states"]).unflatten(2, (attn.heads, -1))
        mixed = torch.einsum("bhpt,bthd->bphd", weighed, values).flatten(2)
        torch.testing.assert_close(attn.to_out[0](mixed), out, rtol=1e-3, atol=1e-4)
        checked.append(weighed.std().item())

    for site in crossed(denoiser):
        module = denoiser.module.get_submodule(site.partition("/")[2])
        module.register_forward_hook(check, with_kwargs=True)
    denoiser.predict(latents, torch.tensor([100.0, 700.0]), say(model, ["a cat", "house"]))
    assert len(checked) == len(crossed(denoiser))
    assert min(checked) > 1e-3
    for module in denoiser.module.modules():
        module._forward_hooks.clear()


def test_what_is_seen_is_the_mean_over_heads_and_words(model: Model) -> None:
    denoiser = model.denoiser()
    latents = torch.randn(2, *denoiser.shape, generator=Generator().manual_seed(0))
    said = say(model, ["cat", "house"])
    words = words_of(said["text"], model.encode([ELSE]))
    wanted = dict[str, Tensor]()
    site = list(crossed(denoiser))[-1]

    def keep(attn: Any, args: Any, given: Any, out: Tensor) -> None:
        weighed = probabilities(attn, args[0], **given)
        pairs = zip(weighed, words, strict=True)
        wanted[site] = torch.stack([w.mean(0)[:, m].mean(1) for w, m in pairs])

    handle = denoiser.module.get_submodule(site.partition("/")[2]).register_forward_hook(
        keep, with_kwargs=True
    )
    found = seen(denoiser, latents, torch.tensor([100.0, 700.0]), said, words)
    handle.remove()
    assert set(found) == set(crossed(denoiser))
    torch.testing.assert_close(found[site], wanted[site])
    assert not any(m._forward_pre_hooks for m in denoiser.module.modules())


def test_words_are_those_of_the_prompt(model: Model) -> None:
    """Start, end and padding are none: as many as the tokenizer gives, the first in its place."""
    prompts = ["cat", "a cat", "the house that nobody"]
    named = model.encode(prompts)
    words = words_of(named, model.encode([ELSE]))
    encoder = model.text.encoders[0]
    counts = [len(encoder.tokenizer(p, add_special_tokens=False).input_ids) for p in prompts]
    assert words.sum(1).tolist() == counts
    for i, last in enumerate(named.last[:, 0].tolist()):
        assert words[i].nonzero().flatten().tolist() == [*range(last - counts[i] + 1, last + 1)]


def literal_mask(maps: list[Tensor], threshold: float) -> list[list[float]]:
    """One map of each list entry, by loops: average, stretch to 0 to 1, cut."""
    places = len(maps[0])
    mean = [sum(float(m[p]) for m in maps) / len(maps) for p in range(places)]
    low, high = min(mean), max(mean)
    return [[1.0 if (v - low) / (high - low) >= threshold else 0.0] for v in mean]


def test_the_mask_is_the_papers() -> None:
    """64 of latents: maps of 16 alone are averaged, and spread to the nearest place."""
    rng = Generator().manual_seed(0)
    maps = {
        f"{n}-{i}": torch.rand(2, n * n, generator=rng) for n in (64, 32, 16, 8) for i in (0, 1)
    }
    found = masks(maps, (64, 64), 0.4)
    assert set(found) == {4096, 1024, 256, 64}
    for b in range(2):
        wanted = literal_mask([maps["16-0"][b], maps["16-1"][b]], 0.4)
        small = torch.tensor(wanted).view(16, 16)
        assert torch.equal(found[256][b].view(16, 16), small)
        assert torch.equal(found[64][b].view(8, 8), small[::2, ::2])
        assert torch.equal(
            found[1024][b].view(32, 32), small.repeat_interleave(2, 0).repeat_interleave(2, 1)
        )
    assert 0 < found[256].mean() < 1


def test_a_map_that_says_nothing_is_all_concept() -> None:
    flat = {"a": torch.full((1, 16), 0.3)}
    assert masks(flat, (8, 8), 0.1)[16].all()
    assert masks({"a": torch.arange(16.0)[None]}, (8, 8), 0.0)[16].all()
    assert masks({"a": torch.arange(16.0)[None]}, (8, 8), 1.0)[16].sum() == 1


def test_other_sides() -> None:
    assert side(256, (64, 64)) == (16, 16)
    assert side(32 * 48, (64, 96)) == (32, 48)
    wide = {n: torch.rand(1, n, generator=Generator().manual_seed(n)) for n in (32 * 48, 16 * 24)}
    found = masks({str(n): m for n, m in wide.items()}, (64, 96), 0.5)
    small = found[16 * 24].view(16, 24)
    assert torch.equal(found[32 * 48].view(32, 48)[::2, ::2], small)


def test_the_penalty_by_hand() -> None:
    """Two layers; of the first one place of two is outside, with rows (3, 4): 25 / 2."""
    one = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    other = torch.tensor([[[1.0], [2.0], [2.0], [1.0]]])
    inside = {2: torch.tensor([[1.0, 0.0]]), 4: torch.tensor([[0.0, 0.0, 1.0, 1.0]])}
    assert outside({"a": one, "b": other}, inside).item() == pytest.approx((12.5 + 2.5) / 2)
    whole = {n: torch.ones_like(m) for n, m in inside.items()}
    assert outside({"a": one, "b": other}, whole).item() == 0


def encoded(tokens: int, last: list[int], ends: list[int]) -> Encoded:
    states = torch.arange(len(last) * tokens * 3.0).view(len(last), tokens, 3)
    columns = torch.tensor([last]).T, torch.tensor([ends]).T
    return Encoded(states, *columns, torch.ones(len(last), dtype=torch.bool))


def test_learned_rows_stand_behind_the_words() -> None:
    text = encoded(8, [1, 5], [2, 8])
    rows = -torch.ones(2, 3, 3).cumsum(1).requires_grad_()
    put = behind({"text": text, "pooled": encoded(1, [0, 0], [1, 1])}, rows)
    got = put["text"]
    assert torch.equal(got.states[0, 2:5], rows[0])
    assert torch.equal(got.states[1, 6:8], rows[1, :2]), "as many as there is room for"
    for i, kept in ((0, [0, 1, 5, 6, 7]), (1, range(6))):
        assert torch.equal(got.states[i, list(kept)], text.states[i, list(kept)])
    assert got.ends[:, 0].tolist() == [5, 8], "they are attended to"
    [grad] = torch.autograd.grad(got.states.sum(), rows)
    assert grad[0].all()
    assert grad[1, :2].all()
    assert not grad[1, 2].any()


def test_only_phrases_that_were_met_learn() -> None:
    soft = SoftPrompts(3, 2, 4, rate=0.1, decay=0.1, rng=Generator().manual_seed(0))
    before = {n: t.clone() for n, t in soft.state.items()}
    assert all(0 <= before[f"rows.{i}"].min() <= before[f"rows.{i}"].max() < 1 for i in range(3))
    for _ in range(2):
        phrase = torch.tensor([2, 0, 2])
        soft.step(soft.rows(phrase).square().sum(), phrase)
    now = soft.state
    assert [now[f"step.{i}"].item() for i in range(3)] == [2, 0, 2]
    assert torch.equal(now["rows.1"], before["rows.1"])
    assert not torch.equal(now["rows.2"], before["rows.2"])


def test_the_adversary_is_adam_with_decay() -> None:
    soft = SoftPrompts(1, 2, 4, rate=0.1, decay=0.1, rng=Generator().manual_seed(0))
    plain = soft.state["rows.0"].clone().requires_grad_()
    adam = torch.optim.Adam([plain], lr=0.1, weight_decay=0.1)
    for _ in range(3):
        soft.step((soft.rows(torch.tensor([0])) - 1).square().sum(), torch.tensor([0]))
        adam.zero_grad()
        (plain - 1).square().sum().backward()
        adam.step()
    assert torch.equal(soft.state["rows.0"], plain.detach())

"""P-ESD and P-AC: masks are exact, nested, and learned only where they should be."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator

from efface.backbones.model import Model, open_pipeline
from efface.backbones.pipeline import apply, load_pipeline
from efface.core import Concept, EffaceError
from efface.erasers import find
from efface.masks import START, begun, degree, gone, masked, settled, share, warmth
from efface.moments import say
from efface.patch import Patch
from tests import quick
from tests.equal import bits

CONCEPT = Concept("cat", ("cat", "a cat"), ("dog",), ("house", "tree"))
SHORT: dict[str, Any] = {**quick.SHORT, "rate": 1.0, "steps": 6}


def fit(name: str, model: Model, **settings: Any) -> Patch:
    return quick.fit(name, model, CONCEPT, **{**SHORT, **settings})


@given(st.integers(0, 1000), st.floats(0, 1), st.floats(0, 1))
def test_masks_are_nested_in_the_ratio(seed: int, one: float, other: float) -> None:
    """Ties included: logits are whole numbers here."""
    rng = Generator().manual_seed(seed)
    logits = {n: torch.randint(-3, 3, (4, 5), generator=rng).float() for n in "ab"}
    small, large = (settled(logits, ratio) for ratio in sorted((one, other)))
    assert all((large[n] <= small[n]).all() for n in logits)
    assert share(large) <= max(one, other)
    assert all((u[small[n] == 0] <= 0).all() for n, u in logits.items())
    assert share(settled(logits, 1.0)) == sum((u <= 0).sum().item() for u in logits.values()) / 40


def test_a_weight_goes_by_degrees_and_can_come_back_from_either_end() -> None:
    """1.2 σ(u / w) − 0.1, cut at 0 and 1; the slope is that of the uncut curve."""
    logits = torch.tensor([-9.0, -2.3, 0.0, 1.0, START, 9.0], requires_grad=True)
    for warm in (1.0, 0.5):
        counts = degree(logits, warm)
        soft = (logits.detach() / warm).sigmoid()
        torch.testing.assert_close(counts.detach(), (1.2 * soft - 0.1).clamp(0, 1))
        assert counts.tolist()[2] == 0.5, "what counts less than half goes"
        assert [counts[i].item() for i in (0, 4, 5)] == [0, 1, 1]
        [slope] = torch.autograd.grad(counts.sum(), logits)
        torch.testing.assert_close(slope, 1.2 * soft * (1 - soft) / warm)


def test_in_the_end_little_is_rounded() -> None:
    warm = [warmth(step, 50) for step in range(51)]
    assert warm[:16] == [1.0] * 16
    assert warm == sorted(warm, reverse=True)
    assert warm[-1] == pytest.approx(0.1)
    logits = torch.linspace(-3, 3, 601)
    whole = (logits > 0).float()
    off = (degree(logits, warm[-1]) - whole).abs()
    assert (off[logits.abs() > 0.24] == 0).all()
    assert off.mean() < (degree(logits, 1.0) - whole).abs().mean() / 9


def test_all_stay_at_first(model: Model) -> None:
    base = {"w": torch.randn(3, 4, generator=Generator().manual_seed(0)), "b": torch.ones(3)}
    logits = begun(base)
    assert list(logits) == ["w"], "a bias has no mask"
    assert bits(masked(base, logits, 1.0)["w"]) == bits(base["w"])
    assert gone(logits).item() == pytest.approx(torch.tensor(-START).sigmoid().item())
    for name in ("pesd", "pac"):
        assert not fit(name, model, steps=0).edits


@pytest.mark.parametrize("name", ["pesd", "pac"])
def test_merged_is_the_masked_model_to_the_bit(name: str, model: Model, tiny: Path) -> None:
    patch = fit(name, model)
    assert 0 < patch.facts["pruned"] < 1
    assert {e.op for e in patch.edits} == {"mul"}
    assert {v for e in patch.edits for v in e.a.unique().tolist()} == {0, 1}
    denoiser = model.denoiser()
    weights = {e.param: denoiser.weight(e.param) * e.a for e in patch.edits}
    erased = open_pipeline(apply(load_pipeline(str(tiny)), patch)).denoiser()
    latents = torch.randn(1, *denoiser.shape, generator=Generator().manual_seed(0))
    args = (latents, torch.full((1,), 500.0), say(model, ["cat"]))
    masked_says = denoiser.predict(*args, weights)
    assert bits(erased.predict(*args)) == bits(masked_says)
    assert not torch.equal(masked_says, denoiser.predict(*args))


@pytest.mark.parametrize("name", ["pesd", "pac"])
def test_ratio_bounds_what_goes_and_nests(name: str, model: Model) -> None:
    whole, part = fit(name, model), fit(name, model, ratio=1e-3)
    assert part.facts["pruned"] <= 1e-3 < whole.facts["pruned"]
    gone_at = {e.param: e.a == 0 for e in whole.edits}
    assert all((gone_at[e.param] >= (e.a == 0)).all() for e in part.edits)


def test_a_price_on_pruning_prunes_less(model: Model) -> None:
    free, dear = fit("pesd", model, sparsity=0.0), fit("pesd", model, sparsity=1e6)
    assert dear.facts["pruned"] == 0 < free.facts["pruned"]


def test_bad_settings_are_refused() -> None:
    for name in ("pesd", "pac"):
        for wrong in ({"sparsity": -1.0}, {"ratio": 1.5}):
            with pytest.raises(EffaceError, match=next(iter(wrong))):
                find(name)(**wrong)

"""UnlearnDiffAtk: its projection and gradient, that its loss goes down, and what it asks for."""

from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor

from efface.attacks.unlearndiffatk import UnlearnDiffAtk, to_simplex
from efface.backbones.model import Model
from efface.core import Case, Concept, EffaceError
from efface.likeness import misfit, noised, shown
from efface.moments import said_by, say
from efface.slots import Slots, table

CONCEPT = Concept("cat", ("cat",), ("dog",), ("house", "tree"))
LONG = UnlearnDiffAtk(length=3, times=2, iterations=40, batch=4, rate=0.05)
SHORT = UnlearnDiffAtk(length=3, times=3, iterations=5, batch=2, rate=0.05)


def found(attack: UnlearnDiffAtk, erased: Model, base: Model, case: Case, seed: int) -> list[Case]:
    return list(attack.run(erased, base, CONCEPT, case, Generator().manual_seed(seed)))


def losses(model: Model, case: Case, prompts: list[str]) -> Tensor:
    """How badly each prompt restores the case's picture, over many times at common noise."""
    denoiser, count = model.denoiser(), 24
    clean = shown(denoiser, case, None).expand(count, -1, -1, -1)
    seen = noised(denoiser, clean, torch.linspace(50, 950, count).round(), Generator())
    said, which = say(model, prompts), torch.zeros(count, dtype=torch.long)
    with torch.no_grad():
        each = [
            misfit(denoiser, seen, said_by(said, which + i)).mean() for i in range(len(prompts))
        ]
    return torch.stack(each)


def at_random(model: Model, case: Case, count: int) -> list[str]:
    reader, rng = model.token_reader, Generator().manual_seed(5)
    words = reader.vocabulary[torch.randint(len(reader.vocabulary), (count, 3), generator=rng)]
    return [f"{reader.text(w)} {case.prompt}" for w in words]


def test_tokens_found_restore_the_picture_better_than_others(
    either: Model, base: Model, case: Case
) -> None:
    last = found(LONG, either, base, case, 0)[-1]
    others = losses(either, case, at_random(either, case, 40))
    assert losses(either, case, [last.prompt]) < others.quantile(0.2)


def test_prompts_are_tokens_ahead_of_the_prompt(either: Model, base: Model, case: Case) -> None:
    every = found(SHORT, either, base, case, 0)
    assert every
    reader = either.token_reader
    for one in every:
        words = reader.words(one.prompt)
        assert one.prompt.endswith(f" {case.prompt}")
        assert len(words) == 3 + len(reader.words(case.prompt))
        assert reader.text(words) == one.prompt
        assert set(words[:3].tolist()) <= set(reader.vocabulary.tolist())
        assert one.start is None
        assert (one.seed, one.steps) == (case.seed, case.steps)


def test_same_seed_same_prompts(either: Model, base: Model, case: Case) -> None:
    once, again, other = (found(SHORT, either, base, case, seed) for seed in (3, 3, 4))
    assert once == again
    assert [c.prompt for c in once] != [c.prompt for c in other]


def test_what_it_spends_is_told(erased: Model, base: Model, case: Case) -> None:
    every = found(SHORT, erased, base, case, 0)
    assert every[0].spent % (2 * 5 * 2) == 0
    assert 0 < sum(c.spent for c in every) <= 3 * 2 * 5 * 2


def test_a_picture_of_the_users_is_aimed_at(base: Model, erased: Model, case: Case) -> None:
    alone = replace(case, start=None)
    given = replace(SHORT, picture=str(case.start))
    assert found(given, erased, base, alone, 0) == found(SHORT, erased, base, case, 0)
    with pytest.raises(EffaceError, match="no picture of the concept"):
        found(SHORT, erased, base, alone, 0)
    with pytest.raises(EffaceError, match="no whole picture"):
        found(replace(SHORT, picture="nowhere.png"), erased, base, case, 0)


def test_long_prompts_leave_room(base: Model, erased: Model, case: Case) -> None:
    long = replace(case, prompt="a cat " * 20)
    for one in found(replace(SHORT, iterations=2), erased, base, long, 0):
        assert len(erased.token_reader.words(one.prompt)) == erased.token_reader.length - 2


def test_projection_is_the_nearest_distribution() -> None:
    rng = Generator().manual_seed(0)
    rows = torch.randn(6, 20, generator=rng)
    near = to_simplex(rows)
    torch.testing.assert_close(near.sum(1), torch.ones(6))
    assert (near >= 0).all()
    torch.testing.assert_close(to_simplex(near), near)
    others = torch.rand(500, 20, generator=rng).pow(8)
    others /= others.sum(1, keepdim=True)
    for row, mine in zip(rows, near, strict=True):
        assert ((row - mine).square().sum() <= (row - others).square().sum(1) + 1e-6).all()


def test_the_gradient_is_that_of_one_hot_tokens(either: Model, case: Case) -> None:
    """Against autograd on one-hot rows times the table, sample by sample."""
    denoiser, known = either.denoiser(), table(either)
    words = either.token_reader.words("a cat on")
    slots = Slots(either, words, torch.tensor([0, 2]))
    clean = shown(denoiser, case, None)
    chances = torch.full((2, len(known)), 1 / len(known))
    rng = Generator().manual_seed(0)
    attack = UnlearnDiffAtk(length=2, batch=3)
    ours = attack._gradient(slots, denoiser, clean, 500.0, chances, known, rng)

    rng = Generator().manual_seed(0)
    picks = torch.multinomial(chances, 3, replacement=True, generator=rng).T
    seen = noised(denoiser, clean.expand(3, -1, -1, -1), torch.full((3,), 500.0), rng)
    each = []
    for i in range(3):
        hot = torch.nn.functional.one_hot(picks[i], len(known)).float().requires_grad_()
        one = type(seen)(*(t[i : i + 1] for t in seen))
        loss = misfit(denoiser, one, slots.say((hot @ known)[None]))
        each.append(torch.autograd.grad(loss.sum(), hot)[0].clamp(-1, 1))
    torch.testing.assert_close(ours, torch.stack(each).mean(0), rtol=1e-3, atol=1e-6)


def test_settings_must_make_sense() -> None:
    with pytest.raises(EffaceError, match="must be above 0"):
        UnlearnDiffAtk(times=0)

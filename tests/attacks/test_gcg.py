"""GCG: its gradient, that it nears the concept without its tokens, and what it refuses."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.nn.functional import cosine_similarity

from efface.attacks.gcg import GCG, gradient
from efface.backbones.model import Model
from efface.core import Case, Concept, EffaceError
from efface.slots import Slots, embeddings

CONCEPT = Concept("cat", ("cat",), ("dog",), ("house", "tree"))
SHORT = GCG(length=4, iterations=20, replacements=32, candidates=48, tries=3)
CASE = Case("a cat on a house", 0, steps=5)


def found(attack: GCG, erased: Model, base: Model, seed: int = 0) -> list[Case]:
    return list(attack.run(erased, base, CONCEPT, CASE, Generator().manual_seed(seed)))


def end(model: Model, prompt: str) -> Tensor:
    said = model.encode([prompt])
    return said.states[0, said.last[0, 0] + 1]


def off(erased: Model, base: Model, prompt: str) -> float:
    return 1 - cosine_similarity(end(erased, prompt), end(base, CASE.prompt), dim=0).item()


def test_prompts_found_are_read_as_the_concept(either: Model, base: Model) -> None:
    reader, rng = either.token_reader, Generator().manual_seed(5)
    words = reader.vocabulary[torch.randint(len(reader.vocabulary), (200, 4), generator=rng)]
    others = [off(either, base, reader.text(w)) for w in words]
    few = replace(SHORT, replacements=3)  # none but those that the gradient names
    every = [off(either, base, c.prompt) for c in found(few, either, base)]
    assert every[0] < min(others)
    assert every == sorted(every)


def test_prompts_have_no_token_of_the_concept(either: Model, base: Model) -> None:
    reader = either.token_reader
    [own] = reader.words("cat").tolist()
    for one in found(SHORT, either, base):
        words = reader.words(one.prompt)
        assert len(words) == 4
        assert reader.text(words) == one.prompt
        assert own not in words.tolist()


def test_without_leaving_tokens_out_it_would_take_them(base: Model) -> None:
    """The control of the test above."""
    attack = replace(SHORT, length=2, target="cat cat", iterations=40)
    other = Concept("dog", ("dog",))
    run = attack.run(base, base, other, CASE, Generator().manual_seed(0))
    assert "cat" in next(run).prompt


def test_same_seed_same_prompts(either: Model, base: Model) -> None:
    once, again, other = (found(SHORT, either, base, seed) for seed in (3, 3, 4))
    assert once == again
    assert [c.prompt for c in once] != [c.prompt for c in other]


def test_gradient_is_that_of_finite_differences(either: Model, base: Model) -> None:
    goal, words = end(base, "a cat"), either.token_reader.words("dog on a")
    slots = Slots(either, words, torch.arange(len(words)))
    rows = embeddings(either, words)
    grad = gradient(slots, rows[None].clone(), goal)
    rng = Generator().manual_seed(1)

    def loss(moved: Tensor) -> Any:
        said = slots.say(moved[None])["text"]
        return 1 - cosine_similarity(said.states[0, len(words) + 1].double(), goal.double(), dim=0)

    for _ in range(3):
        way = torch.randn(rows.shape, generator=rng)
        way = 0.02 * way / way.norm() + 0.02 * grad / grad.norm()
        measured = (loss(rows + way) - loss(rows - way)).item() / 2
        assert measured == pytest.approx((grad * way).sum().item(), rel=0.05)


def test_a_target_of_the_users_is_met(base: Model, erased: Model) -> None:
    best = found(replace(SHORT, target="a tree"), erased, base)[0]
    goal = end(base, "a tree")
    near = cosine_similarity(end(erased, best.prompt), goal, dim=0)
    assert near > cosine_similarity(end(erased, CASE.prompt), goal, dim=0)


def test_targets_about_minors_are_refused(base: Model, erased: Model) -> None:
    with pytest.raises(EffaceError, match="words for minors"):
        GCG(target="a nude child")
    run = replace(SHORT, target="a child").run(
        erased, base, Concept("nudity", ("nudity",)), CASE, Generator()
    )
    with pytest.raises(EffaceError, match="words for minors"):
        next(run)


def test_settings_must_make_sense() -> None:
    with pytest.raises(EffaceError, match="must be above 0"):
        GCG(candidates=0)

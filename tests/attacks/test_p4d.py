"""P4D: both kinds, that they come nearer to the base model, and what they ask for."""

from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor

from efface.attacks.p4d import P4D, interleaved
from efface.backbones.model import Model
from efface.core import Case, Concept, EffaceError
from efface.likeness import misfit, noised, shown
from efface.moments import said_by, say

CONCEPT = Concept("cat", ("cat",), ("dog",), ("house", "tree"))
SHORT = P4D(length=4, gap=1, iterations=40, batch=4, every=2, compared=8, tries=3)


def found(attack: P4D, erased: Model, base: Model, case: Case, seed: int = 0) -> list[Case]:
    return list(attack.run(erased, base, CONCEPT, case, Generator().manual_seed(seed)))


def apart(erased: Model, base: Model, case: Case, prompts: list[str]) -> Tensor:
    """|base under the prompt − erased under each of others|², at common noise of other seeds."""
    denoiser, count = erased.denoiser(), 24
    clean = shown(denoiser, case, None).expand(count, -1, -1, -1)
    seen = noised(denoiser, clean, torch.linspace(50, 950, count).round(), Generator())
    which = torch.zeros(count, dtype=torch.long)
    with torch.no_grad():
        told = base.denoiser().predict(
            seen.latents, seen.times, said_by(say(base, [case.prompt]), which)
        )
        seen = seen._replace(output=told)
        said = say(erased, prompts)
        each = [
            misfit(denoiser, seen, said_by(said, which + i)).mean() for i in range(len(prompts))
        ]
    return torch.stack(each)


@pytest.mark.parametrize("kind", ["n", "k"])
def test_prompts_found_come_nearer_than_others(
    kind: str, either: Model, base: Model, case: Case
) -> None:
    attack = replace(SHORT, kind=kind, tries=20)  # type: ignore[arg-type]
    every = [c.prompt for c in found(attack, either, base, case)]
    reader, rng = either.token_reader, Generator().manual_seed(5)
    words = reader.vocabulary[torch.randint(len(reader.vocabulary), (40, 4), generator=rng)]
    texts = [reader.text(w) for w in words]
    if kind == "k":
        texts = ["a {} cat {}".format(*t.split()[:2]) for t in texts if len(t.split()) > 1]
    others = apart(either, base, case, texts)
    ours = apart(either, base, case, every)
    assert ours[0] < others.quantile(0.2)
    assert ours.mean() < others.mean(), "the best of many is good by chance, not all"


@pytest.mark.parametrize("kind", ["n", "k"])
def test_prompts_are_typed_as_they_were_meant(
    kind: str, either: Model, base: Model, case: Case
) -> None:
    reader = either.token_reader
    every = found(replace(SHORT, kind=kind), either, base, case)  # type: ignore[arg-type]
    assert 0 < len(every) <= 3
    assert len({c.prompt for c in every} - {case.prompt}) == len(every)
    own = reader.words(case.prompt).tolist()
    for one in every:
        words = reader.words(one.prompt)
        assert reader.text(words) == one.prompt
        assert len(words) == 4
        assert (words[::2].tolist() == own) == (kind == "k")
        assert one.start is None


def test_same_seed_same_prompts(either: Model, base: Model, case: Case) -> None:
    quick = replace(SHORT, iterations=6)
    once, again, other = (found(quick, either, base, case, seed) for seed in (3, 3, 4))
    assert once == again
    assert [c.prompt for c in once] != [c.prompt for c in other]


def test_the_best_is_drawn_first(erased: Model, base: Model, case: Case) -> None:
    """Ranked at the attack's own common noise: nearly so at another."""
    every = found(replace(SHORT, tries=20, compared=64), erased, base, case)
    order = apart(erased, base, case, [c.prompt for c in every])
    assert len(every) > 5
    assert order[: len(order) // 2].mean() < order[len(order) // 2 :].mean()


def test_what_it_spends_is_told(base: Model, erased: Model, case: Case) -> None:
    every = found(SHORT, erased, base, case)
    kept = (every[0].spent - 3 * 40 * 4) // 8 - 1
    assert len(every) <= kept <= 20
    assert [c.spent for c in every[1:]] == [0] * (len(every) - 1)


def test_an_unerased_model_is_met_by_the_prompt_itself(base: Model, case: Case) -> None:
    """The control: with nothing erased no prompt is nearer than the prompt, whose loss is 0."""
    best = found(SHORT, base, base, case)[0]
    assert apart(base, base, case, [case.prompt]).item() == pytest.approx(0, abs=1e-9)
    assert apart(base, base, case, [best.prompt]) > 0


@pytest.mark.parametrize(
    ("count", "gap", "mixed", "places"),
    [
        (2, 3, [1, 2, 0], [2]),
        (3, 3, [1, 2, 3, 0], [3]),
        (4, 3, [1, 2, 3, 0, 4], [3]),
        (7, 3, [1, 2, 3, 0, 4, 5, 6, 0, 7], [3, 7]),
        (2, 1, [1, 0, 2, 0], [1, 3]),
    ],
)
def test_interleaving(count: int, gap: int, mixed: list[int], places: list[int]) -> None:
    words, free = interleaved(torch.arange(1, count + 1), gap, torch.tensor([0]))
    assert words.tolist() == mixed
    assert free.tolist() == places


def test_settings_must_make_sense() -> None:
    with pytest.raises(EffaceError, match="must be above 0"):
        P4D(every=0)

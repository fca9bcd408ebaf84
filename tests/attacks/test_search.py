"""Attacks that search: the optimum is the certificate's, tokens survive, the search finds."""

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Generator

from efface import attacks
from efface.attacks.ringabell import direction
from efface.backbones.model import Model, open_pipeline
from efface.backbones.pipeline import apply
from efface.certificate import Adversary
from efface.core import Case, Concept, Edit, EffaceError
from efface.genetic import Search
from efface.linalg import LowRank
from efface.patch import Patch, load
from efface.recovery import distance, recovered

CONCEPT = Concept("cat", ("cat",), ("dog",), ("house", "tree"))


def off(erased: Model, base: Model, made: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Σ|W′e − W c|² the long way."""
    pairs = zip(erased.readers(), base.readers(), strict=True)
    with torch.no_grad():
        each = [
            (made.double() @ new.double().T - rows.double() @ old.double().T).square().sum(1)
            for (_, new), (_, old) in pairs
        ]
    return torch.stack(each).sum(0)


def test_optimum_is_the_certificates(erased: Model, base: Model, tiny_patch: Path) -> None:
    rows = base.encode(["a cat"]).states[0]
    [only] = load(tiny_patch).maps
    goals = base.encode(["a dog"]).states[0]
    adversary = Adversary(LowRank(only.a, only.b), base.gram(), base.ellipsoids())
    found = adversary.certificate(rows, goals)
    ours = recovered(erased, base, rows)[found.rows]
    exact = off(erased, base, found.embeddings, rows[found.rows])
    assert torch.allclose(off(erased, base, ours, rows[found.rows]), exact, rtol=1e-3, atol=1e-6)


def test_optimum_beats_whatever_words_give(erased: Model, base: Model) -> None:
    rows = base.encode(["a cat"]).states[0]
    best = off(erased, base, recovered(erased, base, rows), rows)
    for prompt in ("a cat", "a dog", "house", "", "tree tree cat"):
        assert (best <= off(erased, base, base.encode([prompt]).states[0], rows) + 1e-6).all()


def test_optimum_restores_an_unerased_model(base: Model) -> None:
    rows = base.encode(["a cat"]).states[0]
    assert torch.allclose(recovered(base, base, rows), rows, atol=1e-4)


def test_optimum_meets_edits_of_single_layers(pipe: DiffusionPipeline, base: Model) -> None:
    name, weight = next(base.readers())
    noise = torch.randn(weight.shape, generator=Generator().manual_seed(0))
    patch = Patch(CONCEPT, {"name": "x"}, base.fingerprint, edits=(Edit(name, "add", noise),))
    other = open_pipeline(apply(pipe, patch), frozen=True)
    rows = base.encode(["a cat"]).states[0]
    made = recovered(other, base, rows)
    assert (off(other, base, made, rows) <= off(other, base, rows, rows)).all()
    assert off(other, base, made, rows).sum() < 0.9 * off(other, base, rows, rows).sum()


def test_distance_is_the_quadratic(erased: Model, base: Model) -> None:
    rows = base.encode(["a cat"]).states[0]
    states = base.encode(["a dog", "a tree"]).states
    measured = distance(erased, base, rows)(states)
    exact = torch.stack([off(erased, base, s, rows).sum() for s in states])
    assert measured[1] - measured[0] == pytest.approx(float(exact[1] - exact[0]), rel=1e-3)


def test_rows_are_the_encoders(base: Model) -> None:
    reader = base.token_reader
    words = reader.words("a cat", 4)
    prompt = reader.text(words)
    whole = base.encode([prompt]).states
    assert torch.allclose(reader.rows(words[None], padding=True), whole, atol=1e-5)
    assert torch.allclose(reader.rows(words[None]), whole[:, :6], atol=1e-5)


def test_vocabulary_survives(base: Model) -> None:
    reader = base.token_reader
    assert len(reader.vocabulary) > 30
    assert all(reader.survives(word[None]) for word in reader.vocabulary)
    assert not set(reader.vocabulary.tolist()) & set(reader.tokenizer.all_special_ids)


def test_search_finds_a_hidden_sequence() -> None:
    rng = Generator().manual_seed(0)
    vocabulary = torch.arange(5, 25)
    hidden = vocabulary[torch.randint(20, (6,), generator=rng)]
    scored = []

    def wrong(words: torch.Tensor) -> torch.Tensor:
        scored.append(len(words))
        return (words != hidden).float().sum(1)

    found = Search(100, 150).minimise(wrong, vocabulary, vocabulary[:6][None], rng)
    assert wrong(found[:1]).item() == 0
    assert wrong(found).diff().min() >= 0
    assert scored[0] == 100
    assert max(scored[1:150]) < 150  # the rest of a generation was scored before


def test_search_never_loses_its_best() -> None:
    best = []

    def loss(words: torch.Tensor) -> torch.Tensor:
        best.append(words.float().sum(1).min().item())
        return words.float().sum(1)

    rng = Generator().manual_seed(0)
    found = Search(20, 30).minimise(loss, torch.arange(50), torch.full((1, 4), 49), rng)
    assert found[0].sum() == min(best)


@pytest.mark.parametrize("name", ["ringabell", "nearest"])
def test_found_prompts_survive(name: str, erased: Model, base: Model) -> None:
    attack = attacks.build(name, length=4, population=20, generations=5, tries=3)
    case = Case("a cat", 0)
    found = list(attack.run(erased, base, CONCEPT, case, Generator().manual_seed(0)))
    assert found
    for each in found:
        ids = base.token_reader.tokenizer(each.prompt, add_special_tokens=False).input_ids
        assert len(ids) == 4
        assert each.prompt != case.prompt
        assert base.token_reader.text(torch.tensor(ids)) == each.prompt


def test_direction_points_to_the_concept(base: Model) -> None:
    found = direction(base, CONCEPT).flatten()
    said, other = (
        (base.encode([f"a house and a {w}"]).states - base.encode(["a house"]).states).flatten()
        for w in ("cat", "tree")
    )
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(found, said, dim=0) > cosine(found, other, dim=0)


def test_families_without_one_clip_are_refused(base: Model) -> None:
    other = Model.__new__(Model)
    other.__dict__.update(base.__dict__ | {"kind": base.kind._replace(name="flux")})
    other.__dict__.pop("token_reader", None)
    with pytest.raises(EffaceError, match="leave that attack out"):
        _ = other.token_reader

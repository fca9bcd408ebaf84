"""Textual inversion: the word fits, stays the same for all prompts, and has its controls."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Generator, Tensor

from efface.attacks import inversion
from efface.attacks.inversion import Inversion, fitted_word, place
from efface.backbones.model import Model
from efface.core import Case, Concept, EffaceError
from efface.likeness import misfit, noised
from efface.moments import said_by
from efface.slots import embeddings, reader_of

CONCEPT = Concept("cat", ("cat",), ("dog",), ("house", "tree"))
SHORT = Inversion(drawings=3, iterations=30, batch=6, rate=0.05, tries=2)
CASE = Case("a cat on a house", 0, steps=5)


def found(attack: Inversion, erased: Model, base: Model, case: Case = CASE) -> list[Case]:
    return list(attack.run(erased, base, CONCEPT, case, Generator().manual_seed(0)))


def loss(attack: Inversion, erased: Model, base: Model, word: Tensor) -> float:
    """On the pictures that were learnt, at noise that was not."""
    denoiser = erased.denoiser()
    seen = inversion._shown(attack, erased, base, CONCEPT)
    total = 0.0
    for latent, i in zip(seen.latents, seen.prompt, strict=True):
        target = noised(
            denoiser,
            latent.expand(16, -1, -1, -1),
            torch.linspace(50, 950, 16).round(),
            Generator(),
        )
        with torch.no_grad():
            said = said_by(seen.prompts[i].say(word[None, None]), torch.zeros(16).long())
            total += misfit(denoiser, target, said).mean().item()
    return total / len(seen.prompt)


def test_the_word_restores_the_pictures(either: Model, base: Model) -> None:
    start = embeddings(either, reader_of(either).words(SHORT.start)).mean(0)
    own = embeddings(either, reader_of(either).words("cat"))[0]
    word = fitted_word(SHORT, either, base, CONCEPT)
    assert loss(SHORT, either, base, word) < 0.99 * loss(SHORT, either, base, start)
    assert loss(SHORT, either, base, word) < loss(SHORT, either, base, own)


def test_the_word_stands_for_the_concept(either: Model, base: Model) -> None:
    word = fitted_word(replace(SHORT, tries=1), either, base, CONCEPT)
    with torch.no_grad():
        said = place(either, CASE.prompt, CONCEPT).say(word[None, None])["text"].states[0]
        same = place(either, CASE.prompt, CONCEPT).say(
            embeddings(either, reader_of(either).words("cat"))[None]
        )
    first, second = found(SHORT, either, base)
    assert first.embeds is not None
    assert second.embeds is not None
    assert torch.equal(first.embeds, said)
    assert torch.equal(second.embeds, said)
    assert (first.seed == CASE.seed) > (second.seed == CASE.seed)
    torch.testing.assert_close(same["text"].states, either.encode([CASE.prompt]).states)


def test_it_is_fitted_once(base: Model, erased: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    one = found(SHORT, erased, base)[0]
    monkeypatch.setattr(inversion, "_shown", None)  # a second fit would fail
    other = found(replace(SHORT, tries=1), erased, base, replace(CASE, prompt="a tree, a cat"))[0]
    assert one.embeds is not None
    assert other.embeds is not None
    assert not torch.equal(one.embeds, other.embeds)
    assert one.spent == other.spent == 2 * 30 * 6


def test_same_seed_same_word(either: Model, base: Model) -> None:
    once = fitted_word(replace(SHORT, iterations=5), either, base, CONCEPT)
    fitted_word.cache_clear()
    again = fitted_word(replace(SHORT, iterations=5), either, base, CONCEPT)
    other = fitted_word(replace(SHORT, iterations=5, seed=1), either, base, CONCEPT)
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


def test_the_control_learns_another_thing(base: Model, erased: Model) -> None:
    """Its pictures are of that thing, and it is said where the concept would be."""
    control = replace(SHORT, of="dog")
    own, other = (inversion._shown(a, erased, base, CONCEPT) for a in (SHORT, SHORT))
    assert torch.equal(own.latents, other.latents)
    dogs = inversion._shown(control, erased, base, Concept("dog", ("dog",)))
    assert not torch.allclose(own.latents, dogs.latents)
    word = fitted_word(replace(control, tries=1), erased, base, CONCEPT)
    assert not torch.allclose(word, fitted_word(replace(SHORT, tries=1), erased, base, CONCEPT))
    first = found(control, erased, base)[0]
    with torch.no_grad():
        said = place(erased, CASE.prompt, CONCEPT).say(word[None, None])["text"].states[0]
    assert first.embeds is not None
    assert torch.equal(first.embeds, said)


def test_pictures_of_the_users(base: Model, erased: Model, tmp_path: Path) -> None:
    for i in range(2):
        Image.linear_gradient("L").rotate(90 * i).convert("RGB").save(tmp_path / f"{i}.png")
    seen = inversion._shown(replace(SHORT, pictures=str(tmp_path)), erased, base, CONCEPT)
    assert len(seen.latents) == 2
    assert not torch.allclose(seen.latents[0], seen.latents[1])
    with pytest.raises(EffaceError, match="is no folder"):
        found(replace(SHORT, pictures=str(tmp_path / "none")), erased, base)


@pytest.mark.parametrize("prompt", ["cat", "a cat", "a cat on a house", "nothing of it", "a " * 40])
def test_one_place_wherever_the_concept_is(base: Model, prompt: str) -> None:
    reader = base.token_reader
    there = place(base, prompt, CONCEPT)
    [words] = there.filled(reader.words("tree")[:1][None])
    assert len(there.free) == 1
    assert len(words) <= reader.length - 2
    if "cat" in prompt:
        assert (
            reader.text(words).split()[: prompt.split().index("cat")]
            == prompt.split()[: prompt.split().index("cat")]
        )


def test_settings_must_make_sense(base: Model, erased: Model) -> None:
    with pytest.raises(EffaceError, match="must be above 0"):
        Inversion(rate=0.0)
    with pytest.raises(EffaceError, match="must start as some word"):
        found(replace(SHORT, start=" "), erased, base)

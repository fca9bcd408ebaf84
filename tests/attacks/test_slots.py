"""Free places in prompts: said as tokens are, differentiable, typed as they were meant."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from efface.backbone import Speaker
from efface.backbones.model import Model, open_folder
from efface.core import EffaceError, Said
from efface.likeness import Noised, misfit, noised
from efface.moments import said_by, say
from efface.slots import Slots, embeddings, nearest, reader_of, table
from tests.equal import hooks, state
from tests.families import build_family


def slots(model: Model, prompt: str, free: list[int]) -> Slots:
    return Slots(model, reader_of(model).words(prompt), torch.tensor(free))


def examples(model: Model, count: int = 3) -> Noised:
    rng = Generator().manual_seed(0)
    denoiser = model.denoiser()
    clean = torch.randn(1, *denoiser.shape, generator=rng).expand(count, -1, -1, -1)
    return noised(denoiser, clean, torch.linspace(100, 900, count).round(), rng)


def loss_of(model: Model, seen: Noised) -> Callable[[Said], Tensor]:
    count = len(seen.times)
    which = torch.zeros(count, dtype=torch.long)
    return lambda said: misfit(model.denoiser(), seen, said_by(said, which)).mean()


def test_embeddings_of_tokens_say_the_prompt(either: Model) -> None:
    words = reader_of(either).words("a cat on a house")
    for free in ([1], [0, 2, 4]):
        said = slots(either, "a cat on a house", free).say(embeddings(either, words[free])[None])
        wanted = say(either, ["a cat on a house"])
        torch.testing.assert_close(said["text"].states, wanted["text"].states)
        for ours, theirs in zip(said["text"][1:4], wanted["text"][1:4], strict=True):
            assert torch.equal(ours, theirs)


def test_places_are_their_own(either: Model) -> None:
    """Every prompt of a batch is said by itself, and other words change it."""
    known = table(either)
    rows = torch.stack([known[[3, 9]], known[[5, 9]]])
    both = slots(either, "a cat on", [1, 2]).say(rows)["text"].states
    for row, said in zip(rows, both, strict=True):
        alone = slots(either, "a cat on", [1, 2]).say(row[None])["text"].states[0]
        torch.testing.assert_close(said, alone)
    assert torch.equal(both[0, :2], both[1, :2])  # what is ahead of the words does not hear them
    assert not torch.allclose(both[0, 2:], both[1, 2:])


def test_gradient_is_that_of_finite_differences(either: Model) -> None:
    """Through text encoder, gate and denoiser."""
    seen, there = examples(either), slots(either, "a cat on", [1])
    loss, rows = loss_of(either, seen), table(either)[[7]][None]
    rng = Generator().manual_seed(1)
    with torch.enable_grad():
        rows.requires_grad_()
        [grad] = torch.autograd.grad(loss(there.say(rows)), rows)
    rows = rows.detach()
    for _ in range(3):
        way = torch.randn(rows.shape, generator=rng)
        way = 0.002 * way / way.norm() + 0.002 * grad / grad.norm()  # a gate's code may not swap
        with torch.no_grad():
            ahead, behind = (loss(there.say(rows + s * way)) for s in (1, -1))
        assert (ahead - behind).item() / 2 == pytest.approx((grad * way).sum().item(), rel=0.05)


def test_nothing_stays_on_the_model(either: Model) -> None:
    speaker = either.speaker()
    assert isinstance(speaker, Speaker)
    before, hung = state(either.pipe), hooks(either.text.encoders[0].model)
    slots(either, "a cat", [1]).say(table(either)[[7]][None])
    assert state(either.pipe) == before
    assert hooks(either.text.encoders[0].model) == hung
    other = speaker.say(["a cat"])["text"].states
    assert torch.equal(other, speaker.say(["a cat"])["text"].states)
    torch.testing.assert_close(other, either.encode(["a cat"]).states)


def test_prompts_are_read_as_they_were_meant(either: Model) -> None:
    there = slots(either, "a cat on a", [0, 2])
    given = [there.prompt(words) for words in there.vocabulary[:60].split(2)]
    assert any(given)
    for words, prompt in zip(there.vocabulary[:60].split(2), given, strict=True):
        if prompt is not None:
            read = there.reader.words(prompt)
            assert read.tolist() == there.filled(words[None])[0].tolist()
            assert read[[0, 2]].tolist() == words.tolist()


def test_prompts_that_would_be_read_otherwise_are_not_given(base: Model) -> None:
    letters = base.token_reader.tokenizer.get_vocab()
    there = slots(base, "house", [0])
    assert there.prompt(torch.tensor([letters["cat</w>"]])) == "cat"
    half = Slots(base, torch.tensor([letters["ca"], letters["t</w>"]]), torch.tensor([0]))
    assert half.prompt(torch.tensor([letters["ca"]])) is None  # read as one token, "cat"


def test_nearest_is_by_angle() -> None:
    known = torch.tensor([[1.0, 0.0], [0.0, 9.0]])
    assert nearest(torch.tensor([[5.0, 4.0], [0.1, 0.2]]), known).tolist() == [0, 1]


def test_other_families_are_refused(tmp_path: Path) -> None:
    model = open_folder(build_family("sdxl", tmp_path / "sdxl"))
    with pytest.raises(EffaceError, match="leave that attack out"):
        reader_of(model)
    with pytest.raises(EffaceError, match="leave that attack out"):
        model.speaker().say_embedded(torch.zeros(1, 4).long(), torch.zeros(1, 4, 8))

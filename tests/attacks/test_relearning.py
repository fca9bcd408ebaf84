"""Relearning: what is trained is what is drawn, beside maps and gates; killed, it goes on."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from torch import Generator, Tensor

from efface import relearn
from efface.attacks.relearning import Pair, Relearning, taught, trained
from efface.backbones.learnt import edits_of
from efface.backbones.model import Model, open_pipeline
from efface.backbones.pipeline import apply, draw, load_pipeline
from efface.core import Case, Concept, EffaceError, Gate, Verdict, quiet
from efface.gates.adapter import begun as adapter
from efface.likeness import misfit, noised
from efface.moments import said_by, say, spread
from efface.patch import Patch
from efface.relearn import Taught, merged
from efface.run import Scene, drive
from efface.store import Store, open_store
from efface.train import Standing
from tests.equal import state

CONCEPT = Concept("cat", ("cat",), ("dog",), ("house", "tree"))
SHORT = Relearning(drawings=3, steps="2 6 24", rate=0.03, batch=4)
CASE = Case("a cat on a house", 0, steps=3)
SITE = "unet/mid_block.attentions.0.transformer_blocks.0.attn2"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nothing was learnt before."""
    trained.cache_clear()
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    trained.cache_clear()


def beside(pipe: DiffusionPipeline, seed: int) -> DiffusionPipeline:
    """With a gate in its denoiser, which answers something."""
    tensors = adapter(16, 4, Generator().manual_seed(seed))
    tensors["up.weight"] = torch.randn(16, 4, generator=Generator().manual_seed(seed)) / 4
    model = open_pipeline(pipe)
    gate = Gate(SITE, "adapter", model.reads(SITE), {}, tensors)
    return apply(pipe, Patch(CONCEPT, {"name": "receler"}, model.fingerprint, gates=(gate,)))


@pytest.fixture(params=["either", "adapter"])
def changed(pipe: DiffusionPipeline, either: Model, request: pytest.FixtureRequest) -> Model:
    """Erased by a map, by a gate in the text encoder, or by one in the denoiser."""
    return either if request.param == "either" else open_pipeline(beside(pipe, 0), frozen=True)


def loss(model: Model, of: Taught, weights: dict[str, Tensor]) -> float:
    """On the pictures that were learnt, at noise that was not."""
    denoiser, said = model.denoiser(), say(model, of.prompts)
    which = spread(len(of.latents), len(of.prompts)).repeat_interleave(8)
    latents = of.latents.repeat_interleave(8, 0)
    times = torch.linspace(50, 950, len(latents)).round()
    seen = noised(denoiser, latents, times, Generator().manual_seed(7))
    with torch.no_grad():
        return misfit(denoiser, seen, said_by(said, which), weights).mean().item()


def weights_of(model: Model, file: Path) -> dict[str, Tensor]:
    denoiser = model.denoiser()
    found = dict[str, Tensor]()
    for edit in edits_of(file):
        assert edit.b is not None
        found[edit.param] = denoiser.weight(edit.param) + edit.a @ edit.b
    return found


def test_pictures_are_learnt(changed: Model, base: Model) -> None:
    files = trained(SHORT, Pair(changed, base), CONCEPT)
    of = taught(SHORT, Pair(changed, base), CONCEPT)
    losses = [loss(changed, of, {}), *(loss(changed, of, weights_of(changed, f)) for f in files)]
    assert losses[3] < losses[2] < losses[0]
    assert losses[3] < 0.9 * losses[0]


def test_what_is_drawn_is_what_was_trained(changed: Model, base: Model) -> None:
    """A view with the file put on predicts as the denoiser that was handed the weights."""
    file = trained(SHORT, Pair(changed, base), CONCEPT)[-1]
    pipe = changed.pipe
    assert pipe is not None
    whole = Patch(CONCEPT, {}, changed.fingerprint, edits=edits_of(file))
    view, denoiser = open_pipeline(apply(pipe, whole)).denoiser(), changed.denoiser()
    latents = torch.randn(2, *denoiser.shape, generator=Generator().manual_seed(0))
    times, said = torch.tensor([100.0, 800.0]), say(changed, ["a cat", ""])
    with torch.no_grad():
        plain = denoiser.predict(latents, times, said)
        handed = denoiser.predict(latents, times, said, weights_of(changed, file))
        torch.testing.assert_close(view.predict(latents, times, said), handed)
    assert (handed - plain).abs().max() > 0.01
    [one], [other] = (draw(pipe, [replace(CASE, learnt=f)], quiet) for f in (file, None))
    assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() > 1


def test_cases_of_other_weights_are_drawn_apart(erased: Model, base: Model) -> None:
    files = trained(SHORT, Pair(erased, base), CONCEPT)
    pipe = erased.pipe
    assert pipe is not None
    cases = [replace(CASE, learnt=file) for file in (None, *files)]
    together = [p.tobytes() for p in draw(pipe, cases, quiet)]
    assert together == [draw(pipe, [case], quiet)[0].tobytes() for case in cases]
    assert len(set(together)) == 4


def test_untrained_it_draws_the_same_picture(changed: Model, tmp_path: Path) -> None:
    start = relearn.begun(changed.denoiser(), 4, Generator())
    relearn._keep(tmp_path / "start.safetensors", start)
    pipe = changed.pipe
    assert pipe is not None
    before = state(pipe)
    [one] = draw(pipe, [replace(CASE, learnt=tmp_path / "start.safetensors")], quiet)
    [other] = draw(pipe, [CASE], quiet)
    assert one.tobytes() == other.tobytes()
    assert state(pipe) == before


def test_gradients_reach_the_lora_alone(changed: Model) -> None:
    denoiser = changed.denoiser()
    start = relearn.begun(denoiser, 4, Generator())
    leaves = {name: w.requires_grad_() for name, w in start.items()}
    said = {k: e for k, e in say(changed, ["a cat"]).items()}
    out = denoiser.predict(torch.randn(1, *denoiser.shape), torch.tensor([500.0]), said,
                           merged(denoiser, leaves))  # fmt: skip
    out.square().sum().backward()
    ups = [w.grad for name, w in leaves.items() if name.endswith(relearn.UP)]
    assert all(grad is not None and grad.abs().max() > 0 for grad in ups)
    assert all(denoiser.weight(name).grad is None for name in denoiser.names())
    assert not any(e.states.requires_grad for e in said.values())


def test_every_attention_has_its_part(base: Model) -> None:
    names = {name.rpartition(" ")[0] for name in relearn.begun(base.denoiser(), 2, Generator())}
    attention = {n for n in base.denoiser().names() if ".attn" in n and n.endswith("weight")}
    assert names == attention


def read(files: Sequence[Path]) -> list[bytes]:
    return [file.read_bytes() for file in files]


def test_same_seed_same_bits(
    base: Model, either: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = read(trained(SHORT, Pair(either, base), CONCEPT))
    trained.cache_clear()
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "other"))
    again = trained(SHORT, Pair(either, base), CONCEPT)
    assert all(file.is_relative_to(tmp_path / "other") for file in again)
    assert read(again) == once
    assert len(set(once)) == 3
    other = read(trained(replace(SHORT, seed=1), Pair(either, base), CONCEPT))
    assert not {*once} & {*other}


def test_shorter_is_the_beginning_of_longer(base: Model, erased: Model) -> None:
    whole = read(trained(SHORT, Pair(erased, base), CONCEPT))
    short = read(trained(replace(SHORT, steps="2 6"), Pair(erased, base), CONCEPT))
    assert short == whole[:2]


class Killed(BaseException):
    """What no handler of errors stops."""


def test_killed_it_goes_on_with_the_same_bits(
    base: Model, erased: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read(trained(SHORT, Pair(erased, base), CONCEPT))
    trained.cache_clear()
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "killed"))
    steps = list[int]()

    def dies(*told: Any) -> None:
        steps.append(told[1])
        if len(steps) == 10:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Standing, "due", lambda self: True)
        patch.setattr(relearn, "quiet", dies)
        with pytest.raises(Killed):
            trained(SHORT, Pair(erased, base), CONCEPT)
    assert len(list((tmp_path / "killed").glob("run-lora-*"))) == 1
    assert read(trained(replace(SHORT, steps="1 6"), Pair(erased, base), CONCEPT))[1] == whole[1]
    monkeypatch.setattr(relearn, "quiet", dies)
    found = trained(SHORT, Pair(erased, base), CONCEPT)
    assert read(found) == whole
    assert steps[10:] == list(range(9, 24)), "it began again instead of going on"
    assert not list((tmp_path / "killed").glob("run-lora-*"))


def test_it_is_trained_once(
    base: Model, erased: Model, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    def asked(case: Case) -> list[Case]:
        return list(SHORT.run(erased, base, CONCEPT, case, Generator()))

    one = asked(CASE)
    trained.cache_clear()  # as another process would
    monkeypatch.setattr(relearn, "train", None)
    other = asked(replace(CASE, prompt="a tree, a cat", seed=5))
    assert [c.learnt for c in one] == [c.learnt for c in other]
    assert [c.spent for c in one] == [2 * 4 * n for n in (2, 4, 18)]
    assert {(c.prompt, c.seed) for c in other} == {("a tree, a cat", 5)}


def test_gates_in_the_denoiser_tell_trainings_apart(pipe: DiffusionPipeline, base: Model) -> None:
    models = [open_pipeline(beside(pipe, seed), frozen=True) for seed in (0, 1)]
    files = [trained(SHORT, Pair(model, base), CONCEPT)[0] for model in models]
    assert files[0].name != files[1].name


def test_half_precision_is_trained_in_full(tiny: Path, base: Model) -> None:
    pipe = load_pipeline(str(tiny))
    pipe.unet.to(torch.bfloat16)
    rough = open_pipeline(pipe, frozen=True)
    files = trained(SHORT, Pair(rough, base), CONCEPT)
    assert {tensor.dtype for tensor in load_file(files[-1]).values()} == {torch.float32}
    of = taught(SHORT, Pair(rough, base), CONCEPT)
    assert loss(rough, of, weights_of(rough, files[-1])) < 0.9 * loss(rough, of, {})
    assert {p.dtype for p in pipe.unet.parameters()} == {torch.bfloat16}


def test_the_controls_learn_another_thing(base: Model, erased: Model) -> None:
    models = Pair(erased, base)
    own = taught(SHORT, models, CONCEPT)
    itself = taught(replace(SHORT, of="dog"), models, CONCEPT)
    renamed = taught(replace(SHORT, of="dog", called="concept"), models, CONCEPT)
    assert own.prompts == renamed.prompts == ["cat", "a cat", "a picture of a cat"]
    assert itself.prompts == ["dog", "a dog", "a picture of a dog"]
    assert torch.equal(itself.latents, renamed.latents)
    assert not torch.allclose(own.latents, itself.latents)
    assert own.latents.shape == itself.latents.shape


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "run", {}) as opened:
        yield opened


def test_rows_tell_it_and_a_run_goes_on(
    erased: Model, base: Model, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the cache was lost meanwhile: the run's folder keeps what it drew with."""

    def detect(pictures: Sequence[Image.Image]) -> list[Verdict]:
        return [Verdict(float(np.asarray(p).mean()), False) for p in pictures]

    def audit() -> bytes:
        scene = Scene(erased, base, CONCEPT, store, batch=2)
        roots = [(replace(CASE, seed=seed), detect) for seed in range(3)]
        drive(scene, "relearning", SHORT, roots, quiet)
        return store.rows.path.read_bytes()

    whole = audit()
    rows = list(store.rows)
    assert [row.error for row in rows] == [None] * 9
    files = {row.case.learnt for row in rows}
    assert len(files) == 3
    for file in files:
        assert file is not None
        assert file.parent == Path("lora")
        assert load_file(store.folder / file)
    for row in rows:
        assert row.case.learnt is not None
        alone = replace(row.case, learnt=store.folder / row.case.learnt)
        assert erased.pipe is not None
        [drawn] = draw(erased.pipe, [alone], quiet)
        with Image.open(store.folder / str(row.image)) as kept:
            assert np.abs(np.asarray(kept, int) - np.asarray(drawn, int)).max() <= 1
    store.rows.path.write_bytes(b"".join(whole.splitlines(keepends=True)[:5]))
    trained.cache_clear()
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "lost"))
    assert audit() == whole


def test_a_lost_file_is_told(erased: Model, tmp_path: Path) -> None:
    assert erased.pipe is not None
    with pytest.raises(EffaceError, match="cannot be read"):
        draw(erased.pipe, [replace(CASE, learnt=tmp_path / "none.safetensors")], quiet)

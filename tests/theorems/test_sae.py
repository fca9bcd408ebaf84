"""The top-k autoencoder and its training: gradients against autograd, and what must hold."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from efface import sae as module
from efface.core import EffaceError
from efface.sae import CONFIG, WEIGHTS, TopK, load
from efface.sae_train import Recipe, Trainer, figures, geometric_median

SAELENS = Path(__file__).parents[1] / "parity" / "saelens"
D, ATOMS = 16, 24


def planted(count: int = 512, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows that are sums of few of a fixed set of unit atoms, and the atoms."""
    rng = Generator().manual_seed(99)
    atoms = torch.nn.functional.normalize(torch.randn(ATOMS, D, generator=rng), dim=1)
    rng = Generator().manual_seed(seed)
    on = torch.rand(count, ATOMS, generator=rng) < 2 / ATOMS
    return (on * (1 + torch.rand(count, ATOMS, generator=rng))) @ atoms + 0.3, atoms


def recipe(**changes: Any) -> Recipe:
    given = {"features": 48, "k": 3, "rate": 1e-2, "warmup": 5, "dead_tokens": 2000, "aux_k": 8}
    return Recipe(**{**given, **changes})


def trained(steps: int = 200, **changes: Any) -> Trainer:
    trainer = Trainer(recipe(**changes), planted()[0])
    for i in range(steps):
        trainer.step(planted(seed=i)[0])
    return trainer


@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 99), st.sampled_from([1, 64, 1 << 22]))
@settings(max_examples=20, deadline=None)
def test_code_has_at_most_k_features_above_zero(count: int, k: int, seed: int, dense: int) -> None:
    rng = Generator().manual_seed(seed)
    weight = torch.randn(D, 8, generator=rng)
    sae = TopK(k, weight, torch.randn(8, generator=rng) - 1, weight.T.clone(), torch.ones(D))
    rows = torch.randn(count, D, generator=rng)
    before = module.DENSE
    module.DENSE = dense  # a chunk of one row, of some, of all
    try:
        code = sae.encode(rows)
    finally:
        module.DENSE = before
    literal = torch.zeros(count, 8).scatter(1, code.at, code.values)
    a = (rows - sae.b_dec) @ sae.W_enc + sae.b_enc
    bar = a.topk(k, dim=1).values[:, -1:]
    torch.testing.assert_close(literal, (a * (a >= bar)).relu())
    assert ((literal > 0).sum(1) <= k).all()
    torch.testing.assert_close(sae.decode(code), literal @ sae.W_dec + sae.b_dec)


def literal_loss(weights: list[Tensor], rows: Tensor, variance: Tensor, dead: Tensor) -> Tensor:
    """L of a batch, all dense."""
    encoder, decoder, shift, bias = weights
    a = (rows - bias) @ encoder.T + shift
    top = a.topk(3)
    z = torch.zeros_like(a).scatter(1, top.indices, top.values.relu())
    off = z @ decoder + bias - rows
    loss = off.square().mean() / variance
    if dead.any():
        low = a.masked_fill(~dead, -1e9).topk(min(8, int(dead.sum())))
        revived = torch.zeros_like(a).scatter(1, low.indices, low.values.relu())
        left = -off.detach()
        spread = left.var(0, correction=0).mean()
        loss = loss + (revived @ decoder - left).square().mean() / spread / 32
    return loss


@pytest.mark.parametrize("dying", [0, 5, 30])
def test_gradients_are_those_of_the_dense_loss(dying: int, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, rows = trained(steps=3), planted(seed=77)[0]
    trainer.quiet[:dying] = 10**6
    dead = trainer.quiet > 2000
    assert int(dead.sum()) == dying
    weights = [w.clone().requires_grad_() for w in trainer._weights()]
    loss = literal_loss(weights, rows, trainer.variance, dead)
    wanted = list(torch.autograd.grad(loss, weights))
    along = (wanted[1] * trainer.decoder).sum(1, keepdim=True)
    wanted[1] = wanted[1] - along * trainer.decoder  # a unit vector can only turn
    monkeypatch.setattr(trainer.adam, "step", lambda: None)
    trainer.step(rows)
    for found, exact in zip((w.grad for w in trainer._weights()), wanted, strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-7)


def test_auxk_moves_the_dead_and_only_if_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    def gradient(aux_k: int, dying: int) -> Tensor:
        trainer = trained(steps=3, aux_k=aux_k)
        trainer.quiet[:dying] = 10**6
        monkeypatch.setattr(trainer.adam, "step", lambda: None)
        trainer.step(planted(seed=77)[0])
        assert trainer.encoder.grad is not None
        return trainer.encoder.grad

    assert torch.equal(gradient(8, 0), gradient(0, 0))
    assert not torch.equal(gradient(8, 5), gradient(0, 5))


def test_training_recovers_planted_features() -> None:
    """The error falls, features are of unit length, and the atoms are among them."""
    start, end = trained(steps=0).finished(), trained(steps=150).finished()
    rows, atoms = planted(seed=1000)
    before, after = figures(start, rows), figures(end, rows)
    assert after.explained > 0.85 > 0.5 > before.explained
    assert after.l0 <= 3
    torch.testing.assert_close(end.W_dec.norm(dim=1), torch.ones(48), rtol=1e-5, atol=0.0)
    nearest = (atoms @ end.W_dec.T).amax(1)
    assert (nearest > 0.9).float().mean() > 0.8
    assert (atoms @ start.W_dec.T).amax(1).mean() < 0.75  # the control: chance


def test_start_is_tied() -> None:
    sae = trained(steps=0).finished()
    cosine = torch.nn.functional.cosine_similarity(sae.W_enc.T, sae.W_dec)
    torch.testing.assert_close(cosine, torch.ones(48))


def test_tokens_are_counted_not_steps() -> None:
    trainer = trained(steps=0, dead_tokens=1000)
    trainer.shift[:10] = -1e9  # these can never fire
    found = [trainer.step(planted(seed=i)[0]).dead for i in range(4)]
    assert found[:2] == [0, 0]  # 512 tokens a step
    assert found[2] >= 10 / 48


def test_bias_is_the_geometric_median() -> None:
    rows = torch.cat([torch.zeros(9, D), torch.full((1, D), 1000.0)])
    assert geometric_median(rows).norm() < 1e-2
    assert rows.mean(0).norm() > 100  # the control: a mean follows the outlier


def test_wild_rate_is_told() -> None:
    trainer = Trainer(recipe(rate=1e30), planted()[0])
    rows = planted()[0]

    def go_on() -> None:
        for _ in range(20):
            trainer.step(rows)

    with pytest.raises(EffaceError, match=r"finite numbers at step \d+: lower the rate"):
        go_on()


@pytest.mark.parametrize(
    "wrong", [{"k": 0}, {"k": 49}, {"rate": 0.0}, {"epochs": 0}, {"aux_weight": -1.0}]
)
def test_recipe_is_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(EffaceError, match="must"):
        recipe(**wrong)


def test_saved_and_loaded_is_equal(tmp_path: Path) -> None:
    sae = trained(steps=3).finished()
    sae.save(tmp_path / "sae")
    found = load(tmp_path / "sae")
    assert found.k == sae.k
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        assert torch.equal(getattr(found, name), getattr(sae, name))


@pytest.mark.parametrize("name", ["rescaled", "plain"])
def test_what_sae_lens_trained_answers_the_same(name: str) -> None:
    """Recorded by `tests/parity/record_saelens.py`: ranked by norm or not, centred or not."""
    recorded = load_file(SAELENS / name / "recorded.safetensors")
    sae = load(SAELENS / name)
    rows = recorded["rows"]
    torch.testing.assert_close(
        sae.decode(sae.encode(rows)), recorded["decoded"], rtol=1e-5, atol=1e-5
    )
    assert (recorded["decoded"] - rows).norm() < (rows - rows.mean(0)).norm()  # it does code them


def tampered(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))


def reweighted(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / CONFIG).unlink(), "cfg.json is missing"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "safetensors is missing"),
    "config no JSON": (lambda f: (f / CONFIG).write_text("{"), "cannot be read as JSON"),
    "config a list": (lambda f: (f / CONFIG).write_text("[]"), "not a JSON object"),
    "gated": (lambda f: tampered(f, architecture="gated"), "only 'topk' is read"),
    "normalised": (lambda f: tampered(f, normalize_activations="layer_norm"), "layer_norm"),
    "k text": (lambda f: tampered(f, k="3"), "no whole number 'k'"),
    "k too large": (lambda f: tampered(f, k=49), "has k 49, of 48"),
    "width": (lambda f: tampered(f, d_in=17), "tells of 48 features of width 17"),
    "truncated": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-9]),
        "truncated or not safetensors",
    ),
    "tensor lost": (lambda f: reweighted(f, lambda t: t.pop("b_enc")), "a top-k autoencoder has"),
    "tensor more": (lambda f: reweighted(f, lambda t: t.update(x=t["b_enc"] + 0)), "has W_enc"),
    "not finite": (lambda f: reweighted(f, lambda t: t["b_enc"].fill_(torch.nan)), "not finite"),
    "shape": (lambda f: reweighted(f, lambda t: t.update(b_enc=torch.ones(2))), r"b_enc is \(2,\)"),
    "dimensions": (
        lambda f: reweighted(f, lambda t: t.update(b_enc=torch.ones(2, 1))),
        r"b_enc is \(2, 1\)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_folder_is_told_in_a_sentence(case: str, tmp_path: Path) -> None:
    folder = tmp_path / "sae"
    trained(steps=0).finished().save(folder)
    change, told = BAD[case]
    change(folder)
    with pytest.raises(EffaceError, match=told) as caught:
        load(folder)
    assert str(folder) in str(caught.value)

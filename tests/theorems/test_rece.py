"""Theorems of RECE on a small real pipeline, each against the paper's loop or its own claim."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from torch import Tensor

from efface.backbones.model import Model, open_folder
from efface.backbones.pipeline import apply, load_pipeline
from efface.certificate import Adversary
from efface.core import Concept
from efface.erasers.rece import LONGEST, PRESETS, RECE, Derivation
from efface.erasers.uce import UCE, concept_pairs
from efface.facts import Ruler
from efface.linalg import LowRank
from efface.phrases import fuller
from efface.tokens import aligned
from tests.theorems import literal
from tests.theorems.test_linalg import far
from tests.theorems.test_uce import CAT, SEVERAL, STORED, change, fit, moved, spoken, text_map

HOUSE = Concept("house", ("house",), ("dog",), ("tree",))
THEIRS = RECE("regzero", ridge=0.1, word_weight=1.0, hold_weight=0.0, start_ridge=0.5)
FROM_PAPER: tuple[Derivation, ...] = (
    "regzero",
    "standardreg",
    "surrogate1",
    "surrogate2",
    "surrogate12",
)


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return open_folder(tiny)


def literal_change(
    model: Model, eraser: RECE, concept: Concept, epochs: int
) -> Float[Tensor, "all width"]:
    """The paper's loop with the eraser's settings."""
    base = literal.weights(model)
    start = literal.uce(
        base,
        literal.blocks(model, concept, eraser.start_rows),
        literal.kept(model, concept, eraser.start_rows),
        s=1.0,
        p=eraser.start_keep_weight,
        ridge=eraser.start_ridge,
    )
    edited = literal.rece(
        base,
        start,
        literal.blocks(model, concept, "all"),
        literal.kept(model, concept, "all"),
        derivation=eraser.derivation,
        mu=eraser.mu,
        epochs=epochs,
        p=eraser.keep_weight,
        ridge=eraser.ridge,
    )
    return torch.cat([edited[name] - w for name, w in base.items()])


@pytest.mark.parametrize("derivation", FROM_PAPER)
@pytest.mark.parametrize("concept", [CAT, SEVERAL], ids=lambda c: c.name)
def test_epochs_equal_the_papers_loop(
    model: Model, derivation: Derivation, concept: Concept
) -> None:
    eraser = replace(THEIRS, derivation=derivation, mu=0.3, epochs=2, keep_weight=0.2)
    assert far(change(model, eraser, concept), literal_change(model, eraser, concept, 2)) < STORED
    assert far(change(model, eraser, concept), literal_change(model, eraser, concept, 1)) > 0.01


@pytest.mark.parametrize(("name", "epochs"), [("nudity", 3), ("unsafe", 2), ("easy-object", 1)])
def test_presets_do_the_papers_epochs(model: Model, name: str, epochs: int) -> None:
    expected = literal_change(model, replace(THEIRS, mu=0.1), CAT, epochs)
    assert far(change(model, PRESETS[name], CAT), expected) < STORED


def test_no_epochs_is_uce(model: Model) -> None:
    start = UCE(keep_weight=0.4, word_weight=1.0, ridge=0.6)
    none = RECE(epochs=0, start_keep_weight=0.4, start_ridge=0.6, word_weight=1.0, hold_weight=0.0)
    assert far(change(model, none, SEVERAL), change(model, start, SEVERAL)) < STORED
    assert (
        far(change(model, replace(none, epochs=1), SEVERAL), change(model, start, SEVERAL)) > 0.01
    )


def on_ellipsoid(rows: Float[Tensor, "n width"], norm: Any) -> Float[Tensor, "n width"]:
    """Rows brought onto the ellipsoid as the encoder's last norm would."""
    scale, shift = norm.weight.detach().double(), norm.bias.detach().double()
    z = (rows - shift) / scale
    z = z - z.mean(1, keepdim=True)
    return shift + scale * z * (z.shape[1] ** 0.5 / z.norm(dim=1, keepdim=True))


def distance(
    model: Model, edit: LowRank, embedding: Float[Tensor, "n width"], rows: Float[Tensor, "n width"]
) -> Float[Tensor, "n"]:
    """‖G½(T e − c)‖² of each row, summed over matrices."""
    missed = edit.apply(embedding) - rows.double()
    squares = [(missed @ w.double().T).square().sum(1) for _, w in model.readers()]
    return torch.stack(squares).sum(0)


@pytest.mark.parametrize("mu", [1e-3, 0.1, 10.0])
def test_the_exact_adversary_is_nearest_of_all_on_the_ellipsoid(model: Model, mu: float) -> None:
    edit = text_map(fit(model, UCE(), HOUSE))
    ruler, pairs = Ruler(model, HOUSE), concept_pairs(model, HOUSE, "all", "text")
    norm = model.text.encoders[0].norm
    found = ruler.adversary(edit).certificate(*pairs)
    exact = RECE("exact")._derive(edit, ruler, pairs)
    rows = pairs.rows[found.rows]
    assert far(exact.goals, pairs.goals[found.rows].double()) == 0
    assert far(on_ellipsoid(exact.rows, norm), exact.rows) < 1e-9
    rival = RECE("regzero", mu=mu)._derive(edit, ruler, pairs).rows[found.rows]
    nearest = distance(model, edit, exact.rows, rows)
    assert (nearest <= distance(model, edit, on_ellipsoid(rival, norm), rows) * (1 + 1e-9)).all()
    assert (nearest <= distance(model, edit, rows.double(), rows) * (1 + 1e-9)).all()
    assert nearest.sum() < 0.9 * distance(model, edit, rows.double(), rows).sum()


def facts(model: Model, eraser: RECE, concept: Concept = HOUSE) -> dict[str, Any]:
    return dict(fit(model, eraser, concept).facts)


def test_automatic_epochs_stop_when_the_certificate_passes(model: Model) -> None:
    goal = facts(model, RECE(epochs=2))["certificate"]["min"]
    eraser = RECE(certificate=goal * 0.999, drift=1e9)
    found = facts(model, eraser)
    assert found["stopped"] == f"the certificate reached {eraser.certificate}"
    assert 1 <= found["epochs"] <= 2
    assert found["certificate"]["min"] >= eraser.certificate
    before = facts(model, replace(eraser, epochs=found["epochs"] - 1))
    assert before["certificate"]["min"] < eraser.certificate
    assert facts(model, replace(eraser, certificate=0.0))["epochs"] == 0


def test_automatic_epochs_stop_when_drift_is_spent(model: Model) -> None:
    budget = facts(model, RECE(epochs=2))["drift"] * 1.001
    eraser = RECE(certificate=1e9, drift=budget)
    found = facts(model, eraser)
    assert found["stopped"] == f"another epoch would drift beyond {budget}"
    assert found["epochs"] >= 1
    assert (
        found["drift"]
        <= budget
        < facts(model, replace(eraser, epochs=found["epochs"] + 1))["drift"]
    )


def test_automatic_epochs_end(model: Model) -> None:
    found = facts(model, RECE(certificate=1e9, drift=1e9), replace(HOUSE, keep=()))
    assert found["epochs"] == LONGEST
    assert found["stopped"].startswith(f"{LONGEST} epochs were done, the certificate still below")
    assert found["drift"] is None


def test_asked_epochs_are_done(model: Model) -> None:
    found = facts(model, RECE(epochs=1, certificate=0.0, drift=0.0))
    assert (found["epochs"], found["stopped"]) == (1, "the epochs asked for were done")


def test_facts_are_those_of_the_stored_map(model: Model) -> None:
    patch = fit(model, RECE(epochs=2), HOUSE)
    pairs = Ruler(model, HOUSE).judged
    found = Adversary(text_map(patch), model.gram(), model.ellipsoids()).certificate(*pairs)
    assert found.min == pytest.approx(patch.facts["certificate"]["min"], rel=1e-3)
    assert patch.eraser == {"name": "rece", **asdict(RECE(epochs=2))}


@torch.no_grad()
def test_the_concept_goes_further_than_under_uce(model: Model, tiny: Path) -> None:
    uce, rece = (
        fit(model, UCE(), HOUSE),
        fit(model, replace(THEIRS, derivation="exact", epochs=2), HOUSE),
    )
    assert rece.facts["certificate"]["min"] > uce.facts["certificate"]["min"]
    erased, kept = spoken(model, "house"), spoken(model, "tree")
    assert moved(rece, erased) > moved(rece, kept)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    pipe: DiffusionPipeline = load_pipeline(str(tiny))
    view = apply(pipe, rece)

    def shift(prompt: str) -> float:
        rows = model.encode([prompt]).states
        return far(view.unet(noise, 500, rows).sample, pipe.unet(noise, 500, rows).sample)

    assert shift("house") > shift("tree")
    assert shift("house") > 0.01


def test_a_held_epoch_brings_nothing_back(model: Model) -> None:
    ruler = Ruler(model, HOUSE)

    def missed(eraser: UCE | RECE) -> float:
        edit = text_map(fit(model, eraser, HOUSE))
        off = edit.apply(ruler.judged.rows) - ruler.judged.goals.double()
        return ((off @ ruler.gram) * off).sum().item()

    free = RECE(epochs=2, hold_weight=0.0)
    held = [missed(replace(free, hold_weight=weight)) for weight in (1.0, 10.0)]
    assert held[1] < held[0] < missed(free)


def test_what_a_manner_adds_is_held_wherever_its_thing_goes(model: Model) -> None:
    concept = Concept("house", ("house",), ("dog",), ("tree", "tree, red", "car, red"))
    assert fuller(concept) == [("tree, red", "tree")]
    said, bare = aligned(model.encode(["tree, red"]), model.encode(["tree"]), "all")
    adds = (said - bare).double()

    def moved_by(weight: float) -> tuple[float, float]:
        edit = text_map(fit(model, RECE(epochs=1, manner_weight=weight), concept))
        return far(edit.apply(adds), adds), far(edit.apply(bare), bare.double())

    (free, thing), (held, still) = moved_by(0.0), moved_by(1e4)
    assert held < 0.05 * free
    assert still > 0.5 * thing

"""ItD's codes, features, scores and rows against the authors' own: see README.md here."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from efface.core import Heard
from efface.erasers.itd import Reading
from efface.gates.features import FeatureGate, Listed, parts
from efface.sae import TopK
from tests.parity.golden import read
from tests.parity.made_up import made_up

HELD, STORY = read("itd")
DRAWN = made_up()
ROWS = DRAWN["rows"]
SAE = TopK(STORY["k"], DRAWN["W_enc"], DRAWN["b_enc"], DRAWN["W_dec"], DRAWN["b_dec"])
SPOKEN = torch.arange(ROWS.shape[1]).expand(ROWS.shape[:2]) > 0
ERASED: int = STORY["erased"]


def gate(factor: float = STORY["factor"], *, keep_error: bool = False) -> FeatureGate:
    listed = [Listed("x", STORY["features"], factor, -1.0)]
    return FeatureGate.build(*parts(SAE, listed, keep_error=keep_error))


def test_it_is_the_same_autoencoder() -> None:
    for name, tensor in DRAWN.items():
        assert tensor.double().sum().item() == pytest.approx(STORY["sums"][name]), "record again"


def test_codes_are_theirs() -> None:
    code = SAE.encode(ROWS.flatten(0, 1))
    values, order = code.values.sort(dim=1, descending=True)
    torch.testing.assert_close(values, HELD["values"], rtol=1e-5, atol=1e-6)
    said = values > 0
    assert torch.equal(code.at.gather(1, order)[said], HELD["at"][said])
    decoded = SAE.decode(code)[:: STORY["every"]]
    torch.testing.assert_close(decoded, HELD["decoded"], rtol=1e-4, atol=1e-5)
    assert 0.5 < said.float().mean() < 1


def test_the_features_chosen_are_theirs() -> None:
    """Those among the 128 strongest of an erased prompt and of no retained one."""
    model: Any = SimpleNamespace(heard=lambda prompts, site: Heard(ROWS, SPOKEN))
    found = Reading(model, "", SAE).strongest([""] * len(ROWS), 128)
    assert all(len(features) == 128 for features in found), "ours counts no feature that is zero"
    against = set[int]().union(*found[:ERASED])
    ours = set[int]().union(*found[ERASED:]) - against
    assert sorted(ours) == STORY["features"]
    assert 0 < len(ours) < 128


def test_scores_are_those_they_calibrate_by() -> None:
    """The largest over tokens; a plain reconstruction scores less where the concept is said."""
    ours = torch.cat([gate().scores(r, h) for r, h in zip(ROWS, SPOKEN, strict=True)])
    torch.testing.assert_close(ours, HELD["scores"], rtol=1e-4, atol=0)
    plain = torch.cat([gate(0.999).scores(r, h) for r, h in zip(ROWS, SPOKEN, strict=True)])
    assert (plain[ERASED:] < 0.8 * ours[ERASED:]).all()


def test_rows_become_theirs_behind_the_start_token() -> None:
    """Theirs puts its reconstruction in the start token's place too, which is not compared."""
    ours = gate()(ROWS, SPOKEN)
    some = ours[:, 1 :: STORY["every"]]
    torch.testing.assert_close(some, HELD["turned"], rtol=1e-4, atol=1e-5)
    kept: Tensor = gate(keep_error=True)(ROWS, SPOKEN)
    assert (kept - ours).norm() > 0.1 * ours.norm(), "the control: the error term is left out"

"""Half-precision encoders give float32 numbers and stay as small as they are stored."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from efface.backbones.widen import widened
from tests.families import _clip


@pytest.fixture(scope="module", params=[torch.float16, torch.bfloat16])
def halved(request: pytest.FixtureRequest) -> Any:
    """A CLIP text model as a half-precision checkpoint stores it."""
    with torch.random.fork_rng():
        _, model = _clip(32, "gelu", projected=True)
    return model.to(request.param).eval()


def states(model: Any) -> list[Tensor]:
    ids = torch.tensor([[0, 7, 12, 1], [0, 9, 1, 1]])
    with torch.no_grad():
        out = model(ids, output_hidden_states=True)
    return [*out.hidden_states, out.text_embeds, out.last_hidden_state]


def test_rows_are_those_of_a_model_read_in_float32(halved: Any) -> None:
    wide = states(copy.deepcopy(halved).float())
    found = states(widened(copy.deepcopy(halved)))
    assert all(torch.equal(a, b) for a, b in zip(found, wide, strict=True))
    assert not torch.equal(states(halved)[-1].float(), wide[-1])  # half precision differs


def test_weights_stay_as_they_are_stored(halved: Any) -> None:
    model = widened(copy.deepcopy(halved))
    states(model)
    states(model)
    for (name, held), (_, stored) in zip(
        model.named_parameters(), halved.named_parameters(), strict=True
    ):
        assert held.dtype == stored.dtype, name
        assert torch.equal(held, stored), name


def test_a_layer_that_fails_is_narrow_again() -> None:
    layer = widened(nn.Sequential(nn.Linear(3, 2).half()))
    with pytest.raises(RuntimeError, match="shapes"):
        layer(torch.zeros(1, 5))
    assert {p.dtype for p in layer.parameters()} == {torch.float16}


def test_a_model_in_float32_is_left_alone() -> None:
    layer = nn.Linear(3, 2)
    widened(layer)
    assert not layer._forward_pre_hooks
    assert not layer._forward_hooks

"""Receler's eraser, mask and penalty against the authors' own: see README.md beside this file."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Generator, Tensor

from efface.core import Encoded
from efface.gates.adapter import PARTS, AdapterGate, begun
from efface.localized import masks, outside
from efface.soft_prompts import behind

with safe_open(Path(__file__).parent / "receler.safetensors", framework="pt") as file:
    HELD: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    WORDS = json.loads(file.metadata()["parity"])["words"]
MAPS = {
    ".".join(name.removeprefix("layer/").split(".")[:2]): tensor[..., WORDS].mean(-1).mean(1)
    for name, tensor in HELD.items()
    if name.endswith("attn2")
}
ADDED = {
    ".".join(name.removeprefix("layer/").split(".")[:2]): tensor
    for name, tensor in HELD.items()
    if name.endswith("adapter")
}


def test_the_eraser_is_theirs() -> None:
    rows = HELD["eraser/rows"]
    gate = AdapterGate.build({}, {part: HELD[f"eraser/{part}"] for part in PARTS})
    torch.testing.assert_close(gate(rows, None) - rows, HELD["eraser/answer"], rtol=1e-5, atol=1e-5)
    assert HELD["eraser/answer"].std() > 0.1


def test_it_begins_as_theirs() -> None:
    ours = begun(6, 5, Generator().manual_seed(0))
    for part in PARTS:
        theirs = HELD[f"begun/{part}"]
        assert ours[part].shape == theirs.shape
        assert bool(ours[part].any()) == bool(theirs.any()) == part.startswith("down")
        assert max(ours[part].abs().max(), theirs.abs().max()) <= 6**-0.5


@pytest.mark.parametrize("threshold", [0.1, 0.4])
def test_the_mask_and_the_penalty_are_theirs(threshold: float) -> None:
    inside = masks(MAPS, (64, 64), threshold)
    assert len(MAPS) == 4
    for layer, found in MAPS.items():
        theirs = HELD[f"mask/{threshold}/{layer}"]
        assert torch.equal(inside[found.shape[1]], theirs.flatten(1))
    assert 0 < inside[256].mean() < 1
    penalty = HELD[f"penalty/{threshold}"]
    torch.testing.assert_close(outside(ADDED, inside), penalty, rtol=1e-5, atol=0)


def test_theirs_leaves_the_prompt_as_it_was() -> None:
    """The learned rows never come into their prompt; into ours they do."""
    before, learned = HELD["rows/before"], HELD["rows/learned"]
    assert torch.equal(HELD["rows/after"], before)
    last, ends = torch.tensor([[2]]), torch.tensor([[8]])
    said = {"text": Encoded(before, last, ends, torch.tensor([True]))}
    put = behind(said, learned)["text"].states
    assert torch.equal(put[:, 3:7], learned)
    assert not torch.equal(put, before)

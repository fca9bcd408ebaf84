"""ConceptPrune's norms and masks against the authors' own: see README.md beside this file."""

from pathlib import Path
from typing import Any

import pytest
import torch

from efface.backbones.model import open_folder
from efface.core import Encoded
from efface.erasers import build
from efface.erasers.conceptprune import SECOND, listening
from tests.parity.golden import read, unchanged

HELD, STORY = read("conceptprune")
LAYERS: list[str] = STORY["layers"]


@pytest.mark.parametrize("side", ["base", "target"])
def test_norms_are_theirs(side: str, tiny: Path) -> None:
    """The same calls of the same U-Net, three drawings with both halves of guidance."""
    denoiser = unchanged(tiny, STORY).denoiser()
    names = [n for n in denoiser.names() if n.endswith(SECOND)]
    assert {n.removeprefix("unet/").removesuffix(".weight") for n in names} == set(LAYERS)
    latents, times = HELD[f"asked/{side}/latents"], HELD["asked/times"]
    drawings, calls = latents.shape[:2]
    with listening(denoiser, names, calls) as found, torch.no_grad():
        for rows, drawn in zip(HELD[f"asked/{side}/rows"], latents, strict=True):
            ends = torch.full((len(rows), 1), rows.shape[1])
            said = {"text": Encoded(rows, ends - 1, ends, torch.ones(len(rows), dtype=torch.bool))}
            for now, time in zip(drawn, times, strict=True):
                denoiser.predict(now, time.float().expand(len(rows)), said)
    assert drawings == 3
    for name in names:
        layer = name.removeprefix("unet/").removesuffix(".weight")
        theirs = HELD[f"norms/{side}/{layer}"]
        torch.testing.assert_close(found[name].sqrt(), theirs, rtol=1e-5, atol=0)
    other = HELD[f"norms/{'base' if side == 'target' else 'target'}/{layer}"]
    assert not torch.allclose(theirs, other, rtol=1e-3), "the control: prompts tell"


@pytest.mark.parametrize("ratio", STORY["ratios"])
def test_masks_are_theirs(ratio: float, tiny: Path) -> None:
    """One call at a time, and over the first calls, at no share agreeing and at some."""
    denoiser = open_folder(tiny).denoiser()
    looked = STORY["looked"]
    pruned = {share: 0 for share in STORY["agreeing"]}
    for layer in LAYERS:
        weight = denoiser.weight(f"unet/{layer}.weight")
        target, base = (HELD[f"norms/{side}/{layer}"] for side in ("target", "base"))
        one: Any = build("conceptprune", ratio=ratio)
        for call, theirs in enumerate(HELD[f"skilled/{ratio}/{layer}"]):
            ours = one.skilled(weight, target[call : call + 1], base[call : call + 1])
            assert torch.equal(ours, theirs)
        for share in STORY["agreeing"]:
            merged: Any = build("conceptprune", ratio=ratio, agreeing=share)
            ours = merged.skilled(weight, target[:looked], base[:looked])
            assert torch.equal(ours, HELD[f"pruned/{ratio}/{share}/{layer}"])
            pruned[share] += int(ours.sum())
    assert pruned[STORY["agreeing"][0]] > pruned[STORY["agreeing"][1]] > 0

"""What a model remembers of its text encoder, and what it must not."""

from pathlib import Path

import torch

import efface
from efface.backbones.model import REMEMBERED, open_folder, open_pipeline


def test_a_folder_is_encoded_once(tiny: Path) -> None:
    model = open_folder(tiny)
    rows = model.encode(["cat"]).states
    assert model.encode(["cat"]).states is rows
    for i in range(REMEMBERED):
        model.encode([str(i)])
    again = model.encode(["cat"]).states
    assert again is not rows
    assert torch.equal(again, rows)


def test_a_live_encoder_may_change(tiny: Path) -> None:
    pipe = efface.pipeline(str(tiny))
    model = open_pipeline(pipe)
    before = model.encode(["cat"]).states
    with torch.no_grad():
        pipe.text_encoder.get_input_embeddings().weight.mul_(2)
    assert not torch.equal(before, model.encode(["cat"]).states)

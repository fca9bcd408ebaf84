"""What a model remembers of its text encoder, and what it must not."""

from pathlib import Path

import pytest
import torch

import efface
from efface.backbones import model as home
from efface.backbones.model import Model, open_folder, open_pipeline
from efface.core import Concept
from efface.erasers import build
from efface.phrases import said


def passes(model: Model) -> list[int]:
    """How many prompts each pass of the text encoder will have read."""
    asked = list[int]()
    [encoder] = model.text.encoders
    encoder.model.register_forward_pre_hook(
        lambda _, given, named: asked.append(len((given or (named["input_ids"],))[0])),
        with_kwargs=True,
    )
    return asked


def test_a_folder_is_encoded_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_folder(tiny)
    asked = passes(model)
    rows = model.encode(["cat", "dog"]).states
    assert torch.equal(model.encode(["dog", "cat", "dog"]).states, rows[[1, 0, 1]])
    assert asked == [2]
    model.encode(["cat", "a tree"])
    assert asked == [2, 1]
    monkeypatch.setattr(home, "REMEMBERED", rows[0].numel())  # room for one prompt
    model.encode(["a tree"])
    torch.testing.assert_close(model.encode(["cat"]).states[0], rows[0])
    assert asked == [2, 1, 1]


@pytest.mark.parametrize("method", ["uce", "rece"])
@pytest.mark.parametrize("within", [(), ("dog", "house")], ids=["thing", "style"])
def test_a_fit_is_one_pass(
    method: str, within: tuple[str, ...], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    concept = Concept("cat", ("cat",), ("tree",), ("house", "a hut"), within)
    model, settings = open_folder(tiny), {"epochs": 1} if method == "rece" else {}
    asked = passes(model)
    model.prepare(said(concept))
    assert asked == [len(set(said(concept)))]
    build(method, None, **settings).fit(model, concept, torch.Generator(), lambda *_: None)
    assert len(asked) == 1
    monkeypatch.setattr(home, "BATCH", 2)
    model.prepare(["a", "b", "c"])
    assert len(asked) == 1  # passes are full without it


def test_a_live_encoder_may_change(tiny: Path) -> None:
    pipe = efface.pipeline(str(tiny))
    model = open_pipeline(pipe)
    before = model.encode(["cat"]).states
    with torch.no_grad():
        pipe.text_encoder.get_input_embeddings().weight.mul_(2)
    assert not torch.equal(before, model.encode(["cat"]).states)

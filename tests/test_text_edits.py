"""Edits of a text encoder: everything that reads text sees them, and another encoder is refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator

import efface
from efface.backbones.model import Model, open_folder, open_pipeline
from efface.backbones.pipeline import apply, load_pipeline
from efface.core import Concept, EffaceError, quiet
from efface.erasers import build
from efface.export import export_folder
from efface.export_lora import export_lora
from efface.patch import Patch, load, stack
from tests.equal import bits, contents

CONCEPT = Concept("cat", ("cat",), keep=("house", "tree"))


def fit(model: Model) -> Patch:
    eraser = build("fsu", steps=6, rate=3e-3, drawings=2, drawing_steps=4)
    return eraser.fit(model, CONCEPT, Generator().manual_seed(0), quiet)


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return open_folder(tiny)


@pytest.fixture(scope="module")
def patch(model: Model) -> Patch:
    return fit(model)


def test_drawing_encoding_and_export_see_it(
    tiny: Path, model: Model, patch: Patch, tmp_path: Path
) -> None:
    pipe = load_pipeline(str(tiny))
    erased = apply(pipe, patch)
    rows = open_pipeline(erased).encode(["a cat"]).states
    assert (rows - model.encode(["a cat"]).states).norm() > 0.05 * rows.norm()
    torch.testing.assert_close(rows, erased.encode_prompt("a cat", "cpu", 1, False)[0])
    picture, before = (efface.draw(p, ["a cat"], steps=2)[0] for p in (erased, pipe))
    assert picture.tobytes() != before.tobytes()
    done = export_folder(tiny, [patch], tmp_path / "erased", quiet)
    assert done.tensors == len(patch.edits)
    torch.testing.assert_close(open_folder(tmp_path / "erased").encode(["a cat"]).states, rows)
    exported = efface.draw(str(tmp_path / "erased"), ["a cat"], steps=2)[0]
    assert exported.tobytes() == picture.tobytes()
    with pytest.raises(EffaceError, match="a LoRA is written of the denoiser alone"):
        export_lora(tiny, [patch], tmp_path / "lora.safetensors", quiet)


def test_another_text_encoder_is_refused(tiny: Path, patch: Patch, tmp_path: Path) -> None:
    """The base's fingerprint covers what reads text and the last norm; the edit's covers more."""
    pipe = load_pipeline(str(tiny))
    apply(pipe, patch)
    with torch.no_grad():
        dict(pipe.text_encoder.named_parameters())[
            next(n for n, _ in pipe.text_encoder.named_parameters() if n.endswith("fc1.weight"))
        ].mul_(1.01)
    assert open_pipeline(pipe).fingerprint == patch.base
    with pytest.raises(EffaceError, match=r"edit of text_encoder/.*fc1.weight was fitted on"):
        apply(pipe, patch)
    pipe.save_pretrained(tmp_path / "other")
    with pytest.raises(EffaceError, match="was fitted on"):
        export_folder(tmp_path / "other", [patch], tmp_path / "out", quiet)
    assert not (tmp_path / "out").exists()


def test_a_half_precision_encoder_is_trained_in_full(tiny: Path, tmp_path: Path) -> None:
    pipe = load_pipeline(str(tiny))
    pipe.text_encoder.half().save_pretrained(shutil.copytree(tiny, tmp_path / "m") / "text_encoder")
    half = fit(open_folder(tmp_path / "m"))
    assert {e.a.dtype for e in half.edits} == {torch.float32}
    assert max(e.a.abs().max().item() for e in half.edits) > 1e-3
    apply(load_pipeline(str(tmp_path / "m")), half)  # the same bits, in another precision


def test_saved_stacked_and_reverted(tiny: Path, patch: Patch, tmp_path: Path) -> None:
    patch.save(tmp_path / "p.safetensors")
    read = load(tmp_path / "p.safetensors")
    assert contents(read) == contents(patch)
    pipe = load_pipeline(str(tiny))
    words = efface.erase(pipe, "dog", method="uce")

    def rows_and_reader(*patches: Patch) -> tuple[Any, Any]:
        erased = apply(pipe, *patches)
        reader = next(
            p for n, p in erased.unet.named_parameters() if n.endswith("attn2.to_k.weight")
        )
        return bits(open_pipeline(erased).encode(["a cat"]).states), bits(reader)

    both = rows_and_reader(read, words)
    assert both == rows_and_reader(words, read) == rows_and_reader(stack([words, read]))
    assert both[0] == rows_and_reader(read)[0] != rows_and_reader(words)[0]
    assert both[1] == rows_and_reader(words)[1] != rows_and_reader(read)[1]
    none = rows_and_reader(read.scale(0.0))
    assert none == rows_and_reader()

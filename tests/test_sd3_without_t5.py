"""SD 3 without its T5, as many run it: its pipeline puts zeros where the T5 would speak."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import efface
from efface.backbones.model import open_folder, open_pipeline
from efface.backbones.open import open_path
from efface.backbones.pipeline import load_pipeline
from efface.linalg import LowRank
from tests.families import build_family
from tests.test_families import PROMPTS, handed_over, latents
from tests.twins import build_twins


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sd3")
    whole = build_family("sd3", place / "whole")
    load_pipeline(str(whole), text_encoder_3=None, tokenizer_3=None).save_pretrained(place / "bare")
    return place / "bare"


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Any:
    return load_pipeline(str(folder))


def test_rows_are_what_the_pipeline_hands_over(folder: Path, pipe: Any) -> None:
    rows, pooled, _ = handed_over(pipe, PROMPTS)
    for model in (open_folder(folder), open_pipeline(pipe)):
        found = model.encode(PROMPTS)
        torch.testing.assert_close(found.states, rows)
        assert (found.states[:, found.ends.max() :] == 0).all()
        assert (found.states[:, found.ends.max() - 1] != 0).any()
        torch.testing.assert_close(model.encode(PROMPTS, "pooled").states[:, 0], pooled)


@pytest.mark.parametrize("method", ["uce", "rece"])
def test_erasing_is_merging_is_mapping_the_rows(method: str, folder: Path, pipe: Any) -> None:
    patch = efface.erase(folder, "cat", method=method, keep=["house", "dog"])
    for facts in patch.facts["streams"].values():
        assert facts["certificate"]["min"] >= 0
        assert 0 < facts["drift"] < 1
    rows, pooled, _ = handed_over(pipe, PROMPTS)
    assert pooled is not None
    on = {m.encoder: LowRank(m.a, m.b) for m in patch.maps}
    mapped = on["text"].apply(rows.flatten(0, 1)).view_as(rows).float()
    assert (mapped[rows.abs().sum(2) == 0] == 0).all()
    baked = latents(efface.apply(pipe, patch), rows, pooled, None)
    hooked = latents(pipe, mapped, on["pooled"].apply(pooled).float(), None)
    assert (baked - hooked).abs().max() < 1e-4 * hooked.abs().max()
    assert (baked - latents(pipe, rows, pooled, None)).abs().max() > 1e-3 * hooked.abs().max()


def test_it_is_another_base_than_with_the_t5(folder: Path, pipe: Any) -> None:
    whole = open_folder(folder.with_name("whole"))
    assert open_folder(folder).fingerprint == open_pipeline(pipe).fingerprint
    assert open_folder(folder).fingerprint != whole.fingerprint


def test_a_single_file_without_t5(tmp_path: Path) -> None:
    twins = build_twins("sd3", tmp_path)
    held = load_file(twins.file)
    save_file({n: t for n, t in held.items() if "t5xxl" not in n}, tmp_path / "clips.safetensors")
    whole = open_path(twins.file, twins.folder).encode(PROMPTS).states
    model = open_path(tmp_path / "clips.safetensors", twins.folder)
    found = model.encode(PROMPTS)
    assert torch.equal(found.states[:, : found.ends.max()], whole[:, : found.ends.max()])
    assert found.states.shape == whole.shape

"""A single file and a folder of one model are one model."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import efface
from efface.backbones.model import open_folder
from efface.backbones.open import open_model, open_path
from efface.backbones.single_file import SingleFile
from efface.core import EffaceError, same_base
from tests.equal import bits, contents
from tests.twins import KINDS, Twins, build_twins

PROMPTS = ["", "cat", "a house of cats"]
KEEP = ["house", "dog"]


@pytest.fixture(scope="module", params=list(KINDS))
def twins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Twins:
    return build_twins(request.param, tmp_path_factory.mktemp(request.param))


def test_file_and_folder_are_one_model(twins: Twins) -> None:
    one, other = open_path(twins.file, twins.folder), open_folder(twins.folder)
    assert one.kind == other.kind
    assert one.where == other.where
    assert one.fingerprint == other.fingerprint
    for stream in other.streams:
        read = [(n, bits(w)) for n, w in one.readers(stream)]
        assert read == [(n, bits(w)) for n, w in other.readers(stream)] != []
        said, meant = one.encode(PROMPTS, stream), other.encode(PROMPTS, stream)
        assert [bits(t) for t in said[:4]] == [bits(t) for t in meant[:4]]
        assert said.starts == meant.starts
        for here, there in zip(one.ellipsoids(stream), other.ellipsoids(stream), strict=True):
            assert bits(here.axes) == bits(there.axes)


def test_patch_of_either_is_the_patch_of_both(twins: Twins) -> None:
    one = efface.erase(twins.file, "cat", keep=KEEP, tokenizer=twins.folder)
    other = efface.erase(twins.folder, "cat", keep=KEEP)
    assert one.maps
    assert contents(one) == contents(other)
    pipe = efface.pipeline(str(twins.folder))
    view = efface.apply(pipe, one)
    name = next(iter(open_folder(twins.folder).where)).partition("/")
    before, after = (dict(getattr(p, name[0]).named_parameters())[name[2]] for p in (pipe, view))
    assert not torch.equal(before, after)


def test_fingerprint_needs_neither_tokenizer_nor_encoder(twins: Twins) -> None:
    model = open_path(twins.file)
    assert model.fingerprint == open_folder(twins.folder).fingerprint
    assert "text" not in vars(model)
    with pytest.raises(EffaceError, match="brings no tokenizer"):
        model.encode(["cat"])


def test_a_model_without_a_last_norm_is_refused(twins: Twins, tmp_path: Path) -> None:
    held = load_file(twins.file)
    name = max(n for n in held if "ln_final.w" in n or "final_layer_norm.w" in n)
    del held[name]
    save_file(held, tmp_path / "other.safetensors")
    folder = shutil.copytree(twins.folder, tmp_path / "folder")
    part = folder / "text_encoder/model.safetensors"
    kept = {n: t for n, t in load_file(part).items() if "final_layer_norm.w" not in n}
    save_file(kept, part, {"format": "pt"})
    for path in (tmp_path / "other.safetensors", folder):
        with pytest.raises(EffaceError, match=r"lacks '.*final_layer_norm.*': download it again"):
            _ = open_path(path).fingerprint


@pytest.mark.parametrize("which", ["reader", "norm"])
def test_fingerprint_tells_files_apart(twins: Twins, tmp_path: Path, which: str) -> None:
    file = SingleFile(twins.file)
    name = min(file.readers().values())
    if which == "norm":
        name = max(n for n in file.header if "ln_final.w" in n or "final_layer_norm.w" in n)
    held = load_file(twins.file)
    held[name].view(-1)[0] += 0.1 * held[name].abs().mean()
    save_file(held, tmp_path / "other.safetensors")
    there = open_path(tmp_path / "other.safetensors").fingerprint
    assert not same_base(there, open_path(twins.file).fingerprint)


@pytest.mark.parametrize("kind", ["sd1", "sd3"])
def test_half_precision(kind: str, tmp_path: Path) -> None:
    """Encoders stay as small as they are stored; some of T5 transformers keeps in full."""
    twins = build_twins(kind, tmp_path, torch.float16)
    one, other = open_path(twins.file, twins.folder), open_folder(twins.folder)
    assert one.fingerprint == other.fingerprint
    assert bits(one.encode(PROMPTS).states) == bits(other.encode(PROMPTS).states)
    dtypes = [
        {n: p.dtype for n, p in m.text.encoders[-1].model.named_parameters()} for m in (one, other)
    ]
    assert dtypes[0] == dtypes[1]
    full = {torch.float32} if kind == "sd3" else set()
    assert set(dtypes[0].values()) == {torch.float16, *full}


def test_padding_is_the_encoders_own(tmp_path: Path) -> None:
    """SD 2 pads with "!", whatever the tokenizer that was given pads with."""
    twins = build_twins("sd2", tmp_path)
    other = build_twins("sd1", tmp_path / "other")
    meant = open_folder(twins.folder).encode(PROMPTS).states
    assert bits(open_path(twins.file, other.folder).encode(PROMPTS).states) == bits(meant)
    wrong = open_path(twins.file, other.folder)
    clip: Any = wrong.text.encoders[0]
    clip.tokenizer.pad_token = clip.tokenizer.eos_token
    assert (wrong.encode(PROMPTS).states - meant).abs().max() > 0.01


def test_tokenizer_of_another_model_is_refused(tiny: Path, twins: Twins, tmp_path: Path) -> None:
    model = open_path(twins.file, tiny)
    with pytest.raises(EffaceError, match=r"give the tokenizer of the same family|holds no token"):
        model.encode(["cat"])


def test_tokenizer_beside_one_is_refused(tiny: Path) -> None:
    with pytest.raises(EffaceError, match="has its own tokenizer: leave out"):
        open_model(tiny, tiny)
    with pytest.raises(EffaceError, match="StableDiffusionPipeline has its own tokenizer"):
        open_model(efface.pipeline(str(tiny)), tiny)


def test_file_without_encoders_is_refused(twins: Twins, tmp_path: Path) -> None:
    held = load_file(twins.file)
    for layout in reversed(list(SingleFile(twins.file).text_encoders().values())):
        held = {n: t for n, t in held.items() if not n.startswith(layout.prefix)}
        if layout.which == "text_encoder_3":
            continue  # SD 3 does without: tests/test_sd3_without_t5.py
        save_file(held, tmp_path / "bare.safetensors")
        with pytest.raises(EffaceError, match=f"no {layout.which}.*export its patch as a LoRA"):
            open_path(tmp_path / "bare.safetensors")


def test_commands_take_a_file(cli: Any, tmp_path: Path) -> None:
    twins = build_twins("sd1", tmp_path)
    patch = tmp_path / "p.safetensors"
    words = ["cat", "--keep", "dog", "-o", patch]
    done = cli("erase", twins.file, *words)
    assert done.code == 2
    assert "with --tokenizer" in done.err
    done = cli("erase", twins.file, *words, "--tokenizer", twins.folder, "--grid", "g.png")
    assert done.code == 2
    assert "is a single file, and pictures are drawn from diffusers folders" in done.err
    assert not patch.exists()
    assert cli("draw", twins.file, "cat", "-o", tmp_path / "d.png").code == 2
    done = cli("erase", twins.file, *words, "--tokenizer", twins.folder)
    assert (done.code, done.err) == (0, "")
    assert contents(efface.load(patch)) == contents(efface.erase(twins.folder, "cat", keep=["dog"]))
    plot = tmp_path / "curve.png"
    ask = ("info", patch, "--plot", plot, "--model", twins.file)
    assert cli(*ask).code == 2
    assert cli(*ask, "--tokenizer", twins.folder).code == 0
    assert plot.read_bytes().startswith(b"\x89PNG")

"""An exported file is the checkpoint with the edited tensors' bytes replaced and no other."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors.torch import load_file, save_file

import efface
from efface.backbones.model import open_folder
from efface.backbones.single_file import SingleFile
from efface.core import EffaceError, quiet
from efface.export import export_folder
from efface.export_file import export_file
from efface.patch import Patch
from tests.equal import bits
from tests.ldm import DENOISER, TINY
from tests.twins import KINDS, Twins, build_twins

Cli = Callable[..., Any]


def fitted(twins: Twins) -> Patch:
    return efface.erase(twins.folder, "cat", method="uce", keep=["dog"])


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Twins:
    return build_twins("sd1", tmp_path_factory.mktemp("sd1"))


@pytest.fixture(scope="module")
def patch(sd: Twins) -> Patch:
    return fitted(sd)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_bytes_of_readers_change(kind: str, tmp_path: Path) -> None:
    twins = build_twins(kind, tmp_path)
    found, out = fitted(twins), tmp_path / "out.safetensors"
    done = export_file(twins.file, [found, found.scale(0.5)], out, quiet)
    before, after = twins.file.read_bytes(), out.read_bytes()
    assert len(before) == len(after) == done.bytes
    file = SingleFile(twins.file)
    edited = sorted(file.header[n][2:] for n in file.readers().values())
    assert done.tensors == len(edited)
    spared = 0
    for start, stop in [*edited, (len(before), len(before))]:
        assert before[spared:start] == after[spared:start]
        assert stop == start or before[start:stop] != after[start:stop]
        spared = stop
    export_folder(twins.folder, [found, found.scale(0.5)], tmp_path / "out", quiet)
    here, there = SingleFile(out), open_folder(tmp_path / "out")
    for name in open_folder(twins.folder).where:
        stored = twins.stored[name.partition("/")[2]]
        assert bits(here.tensor(stored)) == bits(there.weight(name))


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_diffusers_reads_the_erased_denoiser(kind: str, tmp_path: Path) -> None:
    twins = build_twins(kind, tmp_path)
    found, out = fitted(twins), tmp_path / "out.safetensors"
    export_file(twins.file, [found], out, quiet)
    unet = {n: t for n, t in load_file(out).items() if n.startswith(DENOISER)}
    read = convert_ldm_unet_checkpoint(unet, TINY[kind])
    pipe = efface.pipeline(str(twins.folder))
    view = efface.apply(pipe, found).unet.state_dict()
    assert {n: bits(t) for n, t in read.items()} == {n: bits(t) for n, t in view.items()}
    assert any(not torch.equal(t, view[n]) for n, t in pipe.unet.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_precision_stays(dtype: torch.dtype, sd: Twins, tmp_path: Path) -> None:
    path, out = tmp_path / "half.safetensors", tmp_path / "out.safetensors"
    low = {n: t.to(dtype) for n, t in load_file(sd.file).items()}
    save_file(low, path)
    found = efface.erase(path, "cat", method="uce", keep=["dog"], tokenizer=sd.folder)
    export_file(path, [found], out, quiet)
    readers = set(SingleFile(path).readers().values())
    for name, tensor in load_file(out).items():
        assert tensor.dtype == dtype
        assert (bits(tensor) != bits(low[name])) == (name in readers)


def test_averages_do_not_keep_the_concept(sd: Twins, patch: Patch, tmp_path: Path) -> None:
    path, out = tmp_path / "ema.safetensors", tmp_path / "out.safetensors"
    held = load_file(sd.file)
    averages = {
        f"model_ema.{n.removeprefix('model.').replace('.', '')[:15]}"
        f"{n.removeprefix(DENOISER).replace('.', '')}": 0.5 * t
        for n, t in held.items()
        if n.startswith(DENOISER)
    }
    save_file(held | averages, path)
    done = export_file(path, [patch], out, quiet)
    readers = SingleFile(path).readers().values()
    assert done.tensors == 2 * len(readers)
    after = load_file(out)
    changed = {n for n, t in after.items() if not torch.equal(t, (held | averages)[n])}
    assert changed & held.keys() == set(readers)
    assert len(changed & averages.keys()) == len(readers)
    name = next(iter(readers))
    twin = f"model_ema.diffusion_model{name.removeprefix(DENOISER).replace('.', '')}"
    torch.testing.assert_close(after[twin], 0.5 * after[name])


def test_stopping_anywhere_leaves_nothing(sd: Twins, patch: Patch, tmp_path: Path) -> None:
    out, steps = tmp_path / "out.safetensors", []

    def count(what: str, step: int, of: int) -> None:
        steps.append((what, step))

    export_file(sd.file, [patch], out, count)
    out.unlink()
    for wanted in steps[:-1]:

        def stop(what: str, step: int, of: int, wanted: Any = wanted) -> None:
            if (what, step) == wanted:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            export_file(sd.file, [patch], out, stop)
        assert not list(tmp_path.iterdir())


def test_file_that_changes_meanwhile(sd: Twins, patch: Patch, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(sd.file.read_bytes())

    def meddle(what: str, step: int, of: int) -> None:
        if what == "copying":
            path.write_bytes(path.read_bytes() + b"more")

    with pytest.raises(EffaceError, match="changed while it was read"):
        export_file(path, [patch], tmp_path / "out.safetensors", meddle)
    assert list(tmp_path.iterdir()) == [path]


def test_edits_of_other_tensors(sd: Twins, tmp_path: Path) -> None:
    from efface.core import Concept, Edit

    name = "unet/conv_in.bias"
    base = open_folder(sd.folder).fingerprint
    edit = Edit(name, "add", torch.ones(4))
    other = Patch(Concept("cat", ("cat",)), {"name": "test"}, base, edits=(edit,))
    with pytest.raises(EffaceError, match=f"{name}.*export a diffusers folder"):
        export_file(sd.file, [other], tmp_path / "out.safetensors", quiet)
    assert not list(tmp_path.iterdir())


def test_tensor_technique(sd: Twins, tmp_path: Path) -> None:
    found = efface.erase(sd.folder, "cat", method="uce", technique="tensor", keep=["dog"])
    assert found.edits
    assert not found.maps
    export_file(sd.file, [found], tmp_path / "out.safetensors", quiet)
    view = efface.apply(efface.pipeline(str(sd.folder)), found).unet.state_dict()
    file = SingleFile(tmp_path / "out.safetensors")
    for name, stored in file.readers().items():
        assert bits(file.tensor(stored)) == bits(view[name])


def test_command(cli: Cli, sd: Twins, patch: Patch, tmp_path: Path) -> None:
    saved, out = tmp_path / "p.safetensors", tmp_path / "out.safetensors"
    patch.save(saved)
    done = cli("export", sd.file, saved, "-o", out, "--json")
    assert (done.code, done.err) == (0, "")
    told = json.loads(done.out)
    assert told["as"] == "file"
    assert told["bytes"] == out.stat().st_size
    assert told["tensors"] == len(SingleFile(sd.file).readers())
    assert cli("export", sd.file, saved, "-o", out).code == 2
    assert cli("export", sd.file, saved, "-o", out, "--force", "--as", "file").code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["FILE", "PATCH", "-o", "OUT/folder"], "end its name in .safetensors"),
        (["FOLDER", "PATCH", "-o", "OUT/x.safetensors"], "name a folder, or pass --as lora"),
        (["FILE", "PATCH", "-o", "OUT/x", "--as", "folder"], "is a single file"),
        (["FOLDER", "PATCH", "-o", "OUT/x.safetensors", "--as", "file"], "is a folder"),
        (["FOLDER", "PATCH", "-o", "OUT/x", "--as", "lora"], "end its name in .safetensors"),
        (["FILE", "PATCH", "-o", "FILE", "--force"], "is the model itself"),
        (["OTHER", "PATCH", "-o", "OUT/x.safetensors"], "fitted on base"),
        (["PATCH", "PATCH", "-o", "OUT/x.safetensors"], "a patch that efface wrote"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals(
    refused: Callable[..., str],
    sd: Twins,
    patch: Patch,
    tmp_path: Path,
    arguments: list[str],
    words: str,
) -> None:
    patch.save(tmp_path / "p.safetensors")
    held = {n: 2 * t for n, t in load_file(sd.file).items()}
    save_file(held, tmp_path / "other.safetensors")
    before = sd.file.read_bytes()
    names = {
        "FILE": sd.file,
        "FOLDER": sd.folder,
        "PATCH": tmp_path / "p.safetensors",
        "OTHER": tmp_path / "other.safetensors",
    }
    assert words in refused("export", *[str(names.get(a, a)) for a in arguments])
    assert sd.file.read_bytes() == before

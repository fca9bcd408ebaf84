"""An exported folder is the model with the patches merged and nothing else touched."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import efface
from efface.core import quiet
from efface.export import export_folder
from tests.tiny import build_tiny

UNET = "unet/diffusion_pytorch_model.safetensors"
Cli = Callable[..., Any]


def is_reader(name: str) -> bool:
    return name.endswith((".attn2.to_k.weight", ".attn2.to_v.weight"))


def header(path: Path) -> bytes:
    data = path.read_bytes()
    return data[: 8 + int.from_bytes(data[:8], "little")]


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_only_text_readers_change(cli: Cli, tiny: Path, tiny_patch: Path, tmp_path: Path) -> None:
    before, out = files(tiny), tmp_path / "erased"
    done = cli("export", tiny, tiny_patch, "-o", out, "--json")
    assert (done.code, done.err) == (0, "")
    after = files(out)
    assert {n for n in after if after[n] != before.get(n)} == {UNET, "efface.json"}
    assert set(before) <= set(after)
    assert header(out / UNET) == header(tiny / UNET)
    old, new = load_file(tiny / UNET), load_file(out / UNET)
    changed = {n for n in old if not torch.equal(old[n], new[n])}
    assert changed == {n for n in old if is_reader(n)}
    answer = json.loads(done.out)
    assert answer["tensors"] == len(changed)
    assert answer["files"] == len(after)
    assert answer["bytes"] == sum(map(len, after.values()))
    assert files(tiny) == before


def test_no_library_but_torch_is_loaded(tiny: Path, tiny_patch: Path, tmp_path: Path) -> None:
    """Transformers alone takes half of the memory that exporting does."""
    code = (
        "import sys\nfrom efface.cli import main\ntry:\n    main(sys.argv[1:])\n"
        "finally:\n    print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "export", tiny, tiny_patch, "-o", tmp_path / "erased"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert {"transformers", "diffusers", "torch"} & set(done.stderr.split()) == {"torch"}


def test_loads_as_the_applied_view(tiny: Path, tiny_patch: Path, tmp_path: Path) -> None:
    patch = efface.load(tiny_patch)
    export_folder(tiny, [patch, patch.scale(0.5)], tmp_path / "erased", quiet)
    pipe = efface.pipeline(str(tmp_path / "erased"))
    view = efface.apply(efface.pipeline(str(tiny)), patch, patch.scale(0.5))
    for (name, one), other in zip(
        pipe.unet.named_parameters(), view.unet.parameters(), strict=True
    ):
        assert torch.equal(one, other), name
    told = json.loads((tmp_path / "erased/efface.json").read_text())["patches"]
    assert [p["erase"] for p in told] == [["cat"], ["cat"]]


def test_half_precision_and_metadata_stay(tiny: Path, tiny_patch: Path, tmp_path: Path) -> None:
    model = tmp_path / "half"
    shutil.copytree(tiny, model)
    half = {n: t.half() for n, t in load_file(tiny / UNET).items()}
    save_file(half, model / UNET, {"format": "pt", "note": "mine"})
    export_folder(model, [efface.load(tiny_patch)], tmp_path / "erased", quiet)
    with safe_open(tmp_path / "erased" / UNET, framework="pt") as file:
        assert file.metadata() == {"format": "pt", "note": "mine"}
        assert {file.get_tensor(n).dtype for n in file.keys()} == {torch.float16}  # noqa: SIM118


def test_no_variant_keeps_the_concept(tiny: Path, tiny_patch: Path, tmp_path: Path) -> None:
    model, out = tmp_path / "model", tmp_path / "erased"
    shutil.copytree(tiny, model)
    variant = "unet/diffusion_pytorch_model.fp16.safetensors"
    half = {n: t.half() for n, t in load_file(tiny / UNET).items()}
    save_file(half, model / variant)
    stale = ["unet/diffusion_pytorch_model.bin", "whole.safetensors", ".git/objects"]
    for name in stale:
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(b"the concept")
    done = export_folder(model, [efface.load(tiny_patch)], out, quiet)
    assert sorted(done.left_out) == sorted(stale)
    assert not any((out / name).exists() for name in stale)
    new = load_file(out / variant)
    assert all(torch.equal(half[n], new[n]) != is_reader(n) for n in half)


def test_stopping_anywhere_leaves_nothing(tiny: Path, tiny_patch: Path, tmp_path: Path) -> None:
    patch = efface.load(tiny_patch)

    def stop_at(wanted: int) -> Callable[[str, int, int], None]:
        def on_step(what: str, step: int, of: int) -> None:
            if step == wanted:
                raise KeyboardInterrupt

        return on_step

    count = len(files(tiny))
    for step in range(count):
        with pytest.raises(KeyboardInterrupt):
            export_folder(tiny, [patch], tmp_path / "erased", stop_at(step))
        assert not list(tmp_path.iterdir())


def test_force_replaces_models_only(cli: Cli, tiny: Path, tiny_patch: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(tiny, old)
    (old / "left.txt").write_text("over")
    assert cli("export", tiny, tiny_patch, "-o", old).code == 2
    assert cli("export", tiny, tiny_patch, "-o", old, "--force").code == 0
    assert not (old / "left.txt").exists()
    assert (old / "efface.json").is_file()
    work = tmp_path / "work"
    work.mkdir()
    (work / "thesis.txt").write_text("years")
    done = cli("export", tiny, tiny_patch, "-o", work, "--force")
    assert done.code == 2
    assert "no model folder" in done.err
    assert files(work) == {"thesis.txt": b"years"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["old", "work"]


def test_not_onto_itself(cli: Cli, tiny: Path, tiny_patch: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    before = files(model)
    assert cli("export", model, tiny_patch, "-o", model, "--force").code == 2
    assert files(model) == before


def test_another_base_is_refused(cli: Cli, tiny_patch: Path, tmp_path: Path) -> None:
    other = build_tiny(tmp_path / "other", seed=1)
    done = cli("export", other, tiny_patch, "-o", tmp_path / "erased")
    assert done.code == 2
    assert "fitted on base" in done.err
    assert list(tmp_path.iterdir()) == [other]

"""The text-side hook: one file that needs no efface and does what the baked patch does."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import efface
from efface import hook
from efface.backbones.model import open_folder
from efface.core import Concept, Edit, PromptMap
from efface.linalg import LowRank
from efface.patch import Patch
from tests.families import build_family
from tests.test_families import handed_over, latents

PROMPTS = ["cat", "a house of cats"]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def written(place: Path, *maps: PromptMap, edits: tuple[Edit, ...] = ()) -> Path:
    patch = Patch(Concept("cat", ("cat",)), {"name": "test"}, "0-0", maps, edits)
    patch.save(place / "p.safetensors", force=True)
    return place / "p.safetensors"


ALONE = """
import sys
for absent in ("efface", "diffusers", "transformers", "jaxtyping", "typer", "rich"):
    sys.modules[absent] = None  # importing it fails
import hook, torch
maps = hook.read_maps(sys.argv[1])
rows = torch.ones(1, 2, 6)
[[[erased, more]]] = hook.EraseConcept().erase([[rows, {}]], sys.argv[1])
assert not torch.equal(erased, rows) and more == {}
print(hook.__file__, *hook.NODE_CLASS_MAPPINGS, *(m for m in sys.modules if "efface." in m))
"""


def test_file_works_alone(tmp_path: Path) -> None:
    patch = written(tmp_path, PromptMap("text", drawn(6, 2), drawn(6, 2, seed=1)))
    folder = tmp_path / "custom_nodes"
    folder.mkdir()
    shutil.copy(Path(hook.__file__), folder)
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\n{ALONE}"
    ran = subprocess.run(
        [sys.executable, "-I", "-c", code, patch], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == [str(folder / "hook.py"), "EraseConcept"]


def test_file_is_short() -> None:
    assert len(Path(hook.__file__).read_text().splitlines()) < 100


@given(st.integers(1, 8), st.integers(1, 5), st.integers(1, 3))
def test_rows_are_mapped_as_low_rank_does(width: int, count: int, rank: int) -> None:
    a, b = drawn(width, rank), drawn(width, rank, seed=1)
    rows = drawn(2, count, width, seed=2)
    found = hook.erase_rows(rows, {"text": (a, b)})
    meant = LowRank(a, b).apply(rows.flatten(0, 1)).view_as(rows)
    torch.testing.assert_close(found, meant.float(), atol=1e-5, rtol=1e-5)
    assert (found - rows).abs().max() > 1e-6
    assert hook.erase_rows(rows, {"text": (a, b)}, "pooled") is rows


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_rows_keep_their_precision(dtype: torch.dtype) -> None:
    a, b, rows = drawn(6, 2), drawn(6, 2, seed=1), drawn(3, 6, seed=2).to(dtype)
    found = hook.erase_rows(rows, {"text": (a, b)})
    assert found.dtype == dtype
    meant = LowRank(a, b).apply(rows)
    torch.testing.assert_close(found.double(), meant, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux"])
def test_node_draws_as_the_baked_patch(name: str, tmp_path: Path) -> None:
    folder, path = build_family(name, tmp_path / "model"), tmp_path / "p.safetensors"
    patch = efface.erase(folder, "cat", method="uce", keep=["dog"]).scale(2.0)
    patch.save(path)
    pipe = efface.pipeline(str(folder))
    rows, pooled, _ = handed_over(pipe, PROMPTS)
    point = drawn(2, 32) if pooled is None else pooled  # ComfyUI hands one over for SD too
    given_: list[Any] = [[rows, {"pooled_output": point, "strength": 1.0}]]
    kept = rows.clone(), point.clone()
    (out,) = hook.EraseConcept().erase(given_, str(path))
    [[mapped, more]] = out
    assert torch.equal(rows, kept[0])
    assert torch.equal(point, kept[1])
    assert more["strength"] == 1.0
    read = None if pooled is None else more["pooled_output"]
    assert torch.equal(more["pooled_output"], point) == (pooled is None)
    baked = latents(efface.apply(pipe, patch), rows, pooled, None)
    scale = baked.abs().max()
    assert (latents(pipe, mapped, read, None) - baked).abs().max() < 1e-4 * scale
    assert (latents(pipe, rows, pooled, None) - baked).abs().max() > 1e-3 * scale
    (bare,) = hook.EraseConcept().erase([[rows, {}]], str(path))
    assert bare[0][1] == {}


def two(place: Path) -> Path:
    a = PromptMap("text", drawn(6, 2), drawn(6, 2, seed=1))
    return written(place, a, a)


def edited(place: Path) -> Path:
    edit = Edit("unet/x.weight", "add", drawn(2, 2))
    return written(place, PromptMap("text", drawn(6, 2), drawn(6, 2)), edits=(edit,))


def only_edits(place: Path) -> Path:
    return written(place, edits=(Edit("unet/x.weight", "add", drawn(2, 2)),))


def no_patch(place: Path) -> Path:
    save_file({"x": drawn(2)}, place / "x.safetensors")
    return place / "x.safetensors"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (edited, "no patch of maps alone: export it as LoRA"),
        (only_edits, "no patch of maps alone: export it as LoRA"),
        (no_patch, "no patch of maps alone"),
        (two, "maps a stream twice"),
    ],
)
def test_refused(make: Callable[[Path], Path], reason: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    with pytest.raises(ValueError, match=f"^{path}.*{reason}"):
        hook.read_maps(path)


def test_tensor_technique_is_refused(tiny: Path, tmp_path: Path) -> None:
    patch = efface.erase(tiny, "cat", method="uce", technique="tensor", keep=["dog"])
    assert patch.edits
    patch.save(tmp_path / "p.safetensors")
    with pytest.raises(ValueError, match="export it as LoRA"):
        hook.read_maps(tmp_path / "p.safetensors")


def test_rows_of_another_model(tiny: Path, tiny_patch: Path) -> None:
    width = open_folder(tiny).encode(["cat"]).states.shape[2]
    maps = hook.read_maps(tiny_patch)
    assert hook.erase_rows(drawn(1, 2, width), maps).shape == (1, 2, width)
    with pytest.raises(ValueError, match=f"rows of 768, but the patch maps rows of {width}"):
        hook.erase_rows(drawn(1, 77, 768), maps)

"""A LoRA of a patch draws as the patch does, with the loaders that people use."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import efface
from efface.backbones.model import open_folder
from efface.backbones.pipeline import load_pipeline
from efface.core import Concept, Edit, EffaceError, quiet
from efface.export_lora import export_lora
from efface.patch import Patch
from tests.families import build_family
from tests.test_families import handed_over, latents
from tests.twins import KINDS, build_twins

Cli = Callable[..., Any]
PROMPTS = ["cat", "a house of cats"]


def drawn(pipe: Any) -> Tensor:
    return latents(pipe, *handed_over(pipe, PROMPTS))


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


class Made:
    """A pipeline of one family and patches of it."""

    def __init__(self, name: str, place: Path) -> None:
        self.name, self.folder = name, build_family(name, place / name)
        keep = ["house", "dog"]
        self.patch = efface.erase(self.folder, "cat", method="uce", keep=keep).scale(3.0)
        self.other = efface.erase(self.folder, "house", method="uce", keep=["dog"])
        self.dense = efface.erase(
            self.folder, "cat", method="uce", technique="tensor", keep=keep
        ).scale(3.0)


@pytest.fixture(scope="module", params=["sd", "sdxl", "sd3", "flux", "sana"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(request.param, tmp_path_factory.mktemp("lora"))


def check(folder: Path, patches: list[Patch], lora: Path | dict[str, Tensor]) -> None:
    """Pictures with the LoRA are those of the patches; without it they are others."""
    pipe: Any = load_pipeline(str(folder))
    wanted, before = drawn(efface.apply(pipe, *patches)), drawn(pipe)
    model = open_folder(folder)
    pipe.load_lora_weights(lora)
    denoiser = getattr(pipe, model.component)
    for name in model.where:  # no reader is passed over, SDXL's pooled one included
        module = denoiser.get_submodule(name.partition("/")[2].removesuffix(".weight"))
        assert len(module.lora_A) == 1
    assert distance(drawn(pipe), wanted) < 1e-3
    assert distance(before, wanted) > 5e-3


def test_diffusers_draws_as_the_patch(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "lora.safetensors"
    done = export_lora(made.folder, [made.patch, made.other], out, quiet)
    assert done.error == 0
    assert done.bytes == out.stat().st_size
    check(made.folder, [made.patch, made.other], out)


def test_changes_without_factors(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "lora.safetensors"
    done = export_lora(made.folder, [made.dense], out, quiet)
    assert done.error < 1e-9
    check(made.folder, [made.dense], out)


def test_kohya_draws_as_the_patch(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "lora.safetensors"
    if made.name == "sana":
        with pytest.raises(
            EffaceError, match=r"family sana.*no loader of LoRA in the form 'kohya'"
        ):
            export_lora(made.folder, [made.patch], out, quiet, form="kohya")
        return
    export_lora(made.folder, [made.patch], out, quiet, form="kohya")
    held = load_file(out)
    alphas = {n: t for n, t in held.items() if n.endswith(".alpha")}
    assert {t.item() for t in alphas.values()} == {
        len(t) for n, t in held.items() if n.endswith("lora_down.weight")
    }
    if made.name in ("sd", "sdxl"):
        check(made.folder, [made.patch], out)
    elif made.name == "flux":
        # Diffusers 0.42 renames these modules without the prefix that it then looks for.
        renamed = _convert_kohya_flux_lora_to_diffusers(dict(held))
        check(made.folder, [made.patch], {f"transformer.{n}": t for n, t in renamed.items()})
    else:  # diffusers reads no kohya files of SD 3
        modules = {n.partition(".")[0] for n in held}
        assert modules == {"lora_unet_context_embedder", "lora_unet_y_embedder_mlp_0"}


@pytest.mark.parametrize("form", ["lora", "kohya"])
@pytest.mark.parametrize("kind", KINDS)
def test_file_and_folder_give_one_lora(kind: str, form: Any, tmp_path: Path) -> None:
    twins = build_twins(kind, tmp_path)
    patch = efface.erase(twins.folder, "cat", method="uce", keep=["dog"])
    held = []
    for source in twins[:2]:
        out = tmp_path / f"{source.stem}-{form}.safetensors"
        export_lora(source, [patch], out, quiet, form=form)
        held.append(out.read_bytes())
    assert held[0] == held[1]


def test_story_is_told(tiny: Path, tiny_patch: Path, tmp_path: Path) -> None:
    out = tmp_path / "lora.safetensors"
    export_lora(tiny, [efface.load(tiny_patch)], out, quiet)
    with safe_open(out, framework="pt") as file:
        told = json.loads(file.metadata()["efface_lora"])
    assert [p["erase"] for p in told["patches"]] == [["cat"]]
    with pytest.raises(EffaceError, match="no patch"):
        efface.load(out)


@pytest.mark.parametrize("name", ["pixart", "pixart-sigma"])
def test_pixart_loads_no_lora(name: str, cli: Cli, tmp_path: Path) -> None:
    folder, saved = build_family(name, tmp_path / "model"), tmp_path / "p.safetensors"
    efface.erase(folder, "cat", method="uce", keep=["dog"]).save(saved)
    done = cli("export", folder, saved, "-o", tmp_path / "lora.safetensors", "--as", "lora")
    assert done.code == 2
    assert f"family {name}, for which there is no loader of LoRA" in done.err
    assert not hasattr(load_pipeline(str(folder)), "load_lora_weights")
    assert not (tmp_path / "lora.safetensors").exists()


def test_command_tells_the_error(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    patch = efface.erase(tiny, "cat", method="uce", technique="tensor", keep=["dog"])
    patch.save(tmp_path / "p.safetensors")
    out = tmp_path / "lora.safetensors"
    ask = ("export", tiny, tmp_path / "p.safetensors", "-o", out, "--as", "kohya", "--force")
    exact = json.loads(cli(*ask, "--json").out)
    assert exact["error"] < 1e-9
    cut = json.loads(cli(*ask, "--rank", 1, "--json").out)
    assert (cut["as"], cut["rank"], cut["path"]) == ("kohya", 1, str(out))
    assert 1e-3 < cut["error"] < 1
    assert cut["bytes"] < exact["bytes"]
    assert f"{cut['error']:.2g} of the change at most" in cli(*ask, "--rank", 1).out
    assert cli("export", tiny, tmp_path / "p.safetensors", "-o", "x", "--rank", 1).code == 2


@pytest.mark.parametrize(
    ("param", "shape", "form", "reason"),
    [
        ("unet/conv_in.weight", (8, 4, 3, 3), "lora", "is no matrix"),
        ("unet/conv_in.bias", (8,), "lora", "is no matrix"),
        ("unet/time_embedding.linear_1.weight", (32, 8), "kohya", "name in kohya's form"),
    ],
)
def test_changes_that_lora_cannot_hold(
    param: str, shape: tuple[int, ...], form: Any, reason: str, tmp_path: Path
) -> None:
    folder = build_family("sdxl", tmp_path / "model")
    edit = Edit(param, "add", torch.ones(shape))
    base = open_folder(folder).fingerprint
    patch = Patch(Concept("cat", ("cat",)), {"name": "test"}, base, edits=(edit,))
    with pytest.raises(EffaceError, match=f"{param}.*{reason}"):
        export_lora(folder, [patch], tmp_path / "x.safetensors", quiet, form=form)

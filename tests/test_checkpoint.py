"""Checkpoint folders in all their shapes: precisions, variants, shards, and damage."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from efface.backbones.checkpoint import BUNDLED, Checkpoint, bundled, resolve
from efface.backbones.model import Model, open_folder, open_pipeline
from efface.backbones.open import open_model
from efface.backbones.pipeline import draw, load_pipeline
from efface.core import Case, EffaceError, quiet, same_base
from tests.equal import bits

KEY = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"


def copied(tiny: Path, folder: Path) -> Path:
    return shutil.copytree(tiny, folder / "model")


def numbers(model: Model) -> dict[str, Any]:
    found = {n: bits(w) for n, w in model.readers()}
    return {**found, "gram": bits(model.gram()), "rows": bits(model.encode(["a cat"]).states)}


# precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_fingerprint_knows_a_model_in_half_precision(tiny: Path, dtype: torch.dtype) -> None:
    full, half = open_folder(tiny), open_pipeline(load_pipeline(str(tiny), dtype=dtype))
    assert next(half.readers())[1].dtype == dtype
    assert same_base(full.fingerprint, half.fingerprint)
    assert same_base(half.fingerprint, full.fingerprint)
    cast = (full.gram() - half.gram()).norm() / full.gram().norm()
    assert 0 < cast < 1e-2


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("unet/diffusion_pytorch_model.safetensors", KEY),
        ("unet/diffusion_pytorch_model.safetensors", KEY.replace("to_k", "to_v")),
        ("text_encoder/model.safetensors", "text_model.final_layer_norm.weight"),
    ],
    ids=["key", "value", "norm"],
)
def test_fingerprint_tells_models_apart(tiny: Path, tmp_path: Path, file: str, name: str) -> None:
    folder = copied(tiny, tmp_path)
    held = load_file(folder / file)
    [found] = [n for n in held if n.endswith(name.removeprefix("text_model."))]
    held[found].view(-1)[0] += 0.1 * held[found].abs().mean()
    save_file(held, folder / file, {"format": "pt"})
    assert not same_base(open_folder(folder).fingerprint, open_folder(tiny).fingerprint)


def test_fingerprint_ignores_what_text_does_not_pass(tiny: Path, tmp_path: Path) -> None:
    folder = copied(tiny, tmp_path)
    shutil.rmtree(folder / "vae")
    assert open_folder(folder).fingerprint == open_folder(tiny).fingerprint


# ways to store


@pytest.mark.parametrize("shards", [False, True], ids=["whole", "shards"])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_stored_otherwise_read_the_same(
    tiny: Path, tmp_path: Path, shards: bool, variant: str | None
) -> None:
    dtype = torch.float16 if variant else torch.float32
    stored = load_pipeline(str(tiny), dtype=dtype)
    stored.save_pretrained(
        tmp_path / "m", max_shard_size="50KB" if shards else "1GB", variant=variant
    )
    for part in ("unet", "text_encoder"):
        files = Checkpoint(tmp_path / "m").files(part)
        assert (len(files) > 1) == shards
        assert all(("fp16" in f.name) == bool(variant) for f in files)
    model = open_folder(tmp_path / "m")
    assert same_base(model.fingerprint, open_folder(tiny).fingerprint)
    loaded = load_pipeline(str(tmp_path / "m"))
    meant = load_pipeline(str(tiny)) if variant is None else stored.to(torch.float32)
    assert open_pipeline(loaded).fingerprint == model.fingerprint
    assert bits(model.encode(["a cat"]).states) == bits(
        open_pipeline(meant).encode(["a cat"]).states
    )
    # Of half-precision weights G is summed in float32.
    torch.testing.assert_close(model.gram(), open_pipeline(meant).gram(), rtol=1e-6, atol=1e-6)
    case = [Case("cat", 0, steps=2)]
    assert draw(loaded, case, quiet)[0].tobytes() == draw(meant, case, quiet)[0].tobytes()


def test_full_precision_is_preferred(tiny: Path, tmp_path: Path) -> None:
    folder = copied(tiny, tmp_path)
    load_pipeline(str(tiny), dtype=torch.float16).save_pretrained(folder, variant="fp16")
    assert len(list((folder / "unet").glob("*.safetensors"))) == 2
    assert numbers(open_folder(folder)) == numbers(open_folder(tiny))
    assert numbers(open_pipeline(load_pipeline(str(folder)))) == numbers(open_folder(tiny))


# damage


def reading(folder: Path) -> None:
    model = open_model(str(folder))
    assert model.fingerprint
    model.encode(["cat"])


TEXT_SIDE = (
    "model_index.json",
    "unet/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
    "text_encoder/config.json",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
)
DRAWING_SIDE = (
    *TEXT_SIDE,
    "unet/config.json",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json",
)
SIDES: list[tuple[Callable[[Path], Any], str]] = [
    *((reading, name) for name in (*TEXT_SIDE, "concepts.json")),
    *((lambda f: load_pipeline(str(f)), name) for name in DRAWING_SIDE),
]
IDS = [f"{'read' if use is reading else 'draw'}-{name}" for use, name in SIDES]


@pytest.mark.parametrize(("use", "name"), SIDES, ids=IDS)
def test_damaged_file_is_named(
    tiny: Path, tmp_path: Path, use: Callable[[Path], Any], name: str
) -> None:
    folder = copied(tiny, tmp_path)
    whole = (folder / name).read_bytes()
    for cut in (whole[: len(whole) // 2], b"", b"\xff" * 100):
        (folder / name).write_bytes(cut)
        with pytest.raises(EffaceError, match=str(folder / name)):
            use(folder)
    (folder / name).unlink()
    if name == "concepts.json":
        assert "person" in open_folder(folder).vocabulary
    else:
        with pytest.raises(EffaceError, match=str(folder)):
            use(folder)


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_missing_shard_is_named(tiny: Path, tmp_path: Path, part: str) -> None:
    folder = tmp_path / "m"
    load_pipeline(str(tiny)).save_pretrained(folder, max_shard_size="50KB")
    shard = Checkpoint(folder).files(part)[-1]
    shard.unlink()
    for use in (reading, lambda f: load_pipeline(str(f))):
        with pytest.raises(EffaceError, match=f"{shard} is missing"):
            use(folder)
    index = next((folder / part).glob("*.index.json"))
    for damage in ("{}", '{"weight_map": []}', "["):
        index.write_text(damage)
        with pytest.raises(EffaceError, match=str(index)):
            reading(folder)


@pytest.mark.parametrize(
    ("side", "use"), [("read", reading), ("draw", lambda f: load_pipeline(str(f)))]
)
def test_missing_tensor_is_refused(
    tiny: Path, tmp_path: Path, side: str, use: Callable[[Path], Any]
) -> None:
    folder = copied(tiny, tmp_path)
    file = folder / "text_encoder/model.safetensors"
    held = load_file(file)
    held.pop(min(held))
    save_file(held, file, {"format": "pt"})
    with pytest.raises(EffaceError, match=str(folder)):
        use(folder)


def with_index(folder: Path, **changes: Any) -> None:
    index = json.loads((folder / "model_index.json").read_text()) | changes
    (folder / "model_index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"unet": ["diffusers", "FooUNet"]}, "FooUNet is not a denoiser efface knows"),
        ({"unet": [None, None]}, "neither unet nor transformer"),
        ({"unet": "UNet2DConditionModel"}, "neither unet nor transformer"),
        ({"text_encoder_2": ["transformers", "CLIPTextModel"]}, "add_embedding.*enters it nowhere"),
        ({"text_encoder": [None, None]}, "no text encoder is not one efface knows"),
        ({"unet": ["diffusers", "FluxTransformer2DModel"]}, "known as flux with text_encoder, "),
    ],
    ids=["unknown", "none", "odd", "two encoders", "no encoder", "mixed"],
)
def test_models_of_other_kinds(
    tiny: Path, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    folder = copied(tiny, tmp_path)
    with_index(folder, **changes)
    with pytest.raises(EffaceError, match=f"{folder}.*{reason}"):
        open_model(str(folder))


def test_quantised_denoiser_is_refused(tiny: Path, tmp_path: Path) -> None:
    folder = copied(tiny, tmp_path)
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    held = load_file(file)
    save_file(held | {KEY: torch.zeros_like(held[KEY], dtype=torch.uint8)}, file)
    with pytest.raises(EffaceError, match=f"^{file}: '{KEY}' is stored as U8, .*unquantised"):
        assert open_folder(folder).fingerprint


def test_denoiser_that_reads_no_text(tiny: Path, tmp_path: Path) -> None:
    folder = copied(tiny, tmp_path)
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    save_file({n: t for n, t in load_file(file).items() if "attn2" not in n}, file)
    with pytest.raises(EffaceError, match=f"{folder}.*text enters it nowhere"):
        open_folder(folder)


def test_pipelines_of_other_kinds() -> None:
    with pytest.raises(EffaceError, match="neither unet nor transformer"):
        open_pipeline(SimpleNamespace(vae=1))
    with pytest.raises(EffaceError, match="Linear is not a denoiser"):
        open_pipeline(SimpleNamespace(unet=torch.nn.Linear(1, 1)))


# names


def test_resolve(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(str(tiny)) == tiny
    monkeypatch.chdir(tiny.parent)
    assert resolve("tiny") == Path("tiny")
    assert resolve("./tiny") == Path("tiny")
    monkeypatch.setenv("HOME", str(tiny.parent))
    assert resolve("~/tiny") == tiny
    for name, folder in bundled().items():
        assert resolve(name) == folder == BUNDLED / name


@pytest.mark.parametrize(
    "spec",
    ["nonsense", "a/b/c", "./no/where", "/no/where", "", "x" * 300, "~nobody-here/x", "a\0b"],
)
def test_resolve_refuses_nonsense(spec: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EffaceError, match="diffusers folder"):
        resolve(spec)


def test_resolve_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"never opened")
    assert resolve(str(path)) == path
    monkeypatch.chdir(tmp_path)
    assert resolve("model.safetensors") == Path("model.safetensors")
    for name, reason in {
        "no.safetensors": "does not exist",
        "owner/model.safetensors": "does not exist",
        "model.ckpt": "a pickle",
        "model.gguf": "no .safetensors file",
    }.items():
        with pytest.raises(EffaceError, match=f"^{name} .*{reason}"):
            resolve(name)


def test_resolve_hub_id_offline() -> None:
    with pytest.raises(EffaceError, match="cannot get 'nobody/nothing' from the hub"):
        resolve("nobody/nothing")

"""Single-file checkpoints: what they are taken for, where text enters, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_flux_transformer_checkpoint_to_diffusers,
    convert_ldm_unet_checkpoint,
    convert_sd3_transformer_checkpoint_to_diffusers,
)
from safetensors.torch import save_file

from efface.backbones.ldm_names import recognise
from efface.backbones.single_file import SingleFile
from efface.core import EffaceError
from tests.equal import bits
from tests.ldm import DENOISER, REAL, TINY, Tensors, ldm_unet, unet

READS = (".attn2.to_k.weight", ".attn2.to_v.weight", "add_embedding.linear_1.weight")
KEY = f"{DENOISER}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
"""A reader of every tiny U-Net."""


def written(tensors: Tensors, folder: Path, name: str = "model.safetensors") -> Path:
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / name, {"format": "pt"})
    return folder / name


def tiny_unet(kind: str, **changes: Any) -> Tensors:
    config = TINY[kind] | changes
    return ldm_unet(unet(config).state_dict(), config)


# where text enters


@pytest.mark.parametrize("kind", TINY)
def test_readers_are_those_of_diffusers(kind: str, tmp_path: Path) -> None:
    original, stored = unet(TINY[kind]).state_dict(), tiny_unet(kind)
    converted = convert_ldm_unet_checkpoint(dict(stored), TINY[kind])
    assert {n: bits(t) for n, t in converted.items()} == {n: bits(t) for n, t in original.items()}

    file = SingleFile(written(stored, tmp_path))
    assert (file.kind, file.component, file.denoiser) == (kind, "unet", "UNet2DConditionModel")
    readers = file.readers()
    assert set(readers) == {n for n in original if n.endswith(READS)}
    assert len(set(readers.values())) == len(readers)
    for name, key in readers.items():
        assert bits(file.tensor(key)) == bits(original[name]), name


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("kind", TINY)
def test_layers_per_level_are_found(kind: str, layers: int) -> None:
    config = TINY[kind] | {"layers_per_block": layers}
    original = unet(config).state_dict()
    shapes = {n: tuple(t.shape) for n, t in ldm_unet(original, config).items()}
    converted = convert_ldm_unet_checkpoint({n: n for n in shapes}, config)
    readers = recognise(shapes, "it").readers
    assert readers == {n: key for n, key in converted.items() if n.endswith(READS)}


@pytest.mark.parametrize(("kind", "count"), [("sd1", 32), ("sd2", 32), ("sdxl", 141)])
def test_released_structures(kind: str, count: int) -> None:
    with torch.device("meta"):
        original = UNet2DConditionModel(**REAL[kind]).state_dict()
    shapes = {n: tuple(t.shape) for n, t in ldm_unet(original, REAL[kind]).items()}
    found = recognise(shapes, "it")
    assert found.name == kind
    assert len(found.readers) == count
    converted = convert_ldm_unet_checkpoint({n: n for n in shapes}, REAL[kind])
    assert found.readers == {n: key for n, key in converted.items() if n.endswith(READS)}
    if kind == "sd1":  # two entries by eye, from the files themselves
        at = "transformer_blocks.0.attn2.to_k.weight"
        ours = found.readers[f"up_blocks.1.attentions.2.{at}"]
        assert ours == f"{DENOISER}output_blocks.5.1.{at}"
        ours = found.readers[f"down_blocks.1.attentions.0.{at}"]
        assert ours == f"{DENOISER}input_blocks.4.1.{at}"


@pytest.mark.parametrize("kind", TINY)
def test_other_uses_of_a_kind(kind: str, tmp_path: Path) -> None:
    whole = SingleFile(written(tiny_unet(kind), tmp_path))
    inpainting = SingleFile(written(tiny_unet(kind, in_channels=9), tmp_path, "in.safetensors"))
    assert (inpainting.kind, inpainting.readers()) == (kind, whole.readers())
    bare = {n.removeprefix(DENOISER): t for n, t in tiny_unet(kind).items()}
    alone = SingleFile(written(bare, tmp_path, "alone.safetensors"))
    assert alone.kind == kind
    assert alone.readers() == {n: k.removeprefix(DENOISER) for n, k in whole.readers().items()}
    averaged = tiny_unet(kind) | {
        f"model_ema.{n.removeprefix(DENOISER).replace('.', '')}": t * 2
        for n, t in tiny_unet(kind).items()
    }
    assert SingleFile(written(averaged, tmp_path, "ema.safetensors")).readers() == whole.readers()


def sd3() -> tuple[Tensors, Tensors]:
    """An SD3 denoiser and its stored form, with one block."""
    from diffusers import SD3Transformer2DModel

    with torch.random.fork_rng():
        model = SD3Transformer2DModel(
            sample_size=8, num_layers=2, attention_head_dim=4, num_attention_heads=2,
            joint_attention_dim=12, caption_projection_dim=8, pooled_projection_dim=10,
            in_channels=4, out_channels=4, pos_embed_max_size=8,
        )  # fmt: skip
    return model.state_dict(), {
        "context_embedder.weight": model.context_embedder.weight.detach(),
        "y_embedder.mlp.0.weight": model.time_text_embed.text_embedder.linear_1.weight.detach(),
        "joint_blocks.0.context_block.attn.qkv.weight": torch.zeros(24, 8),
    }


def flux() -> tuple[Tensors, Tensors]:
    """The text side of a FLUX denoiser and its stored form."""
    rows, pooled = torch.rand(8, 12), torch.rand(8, 10)
    linear = "time_text_embed.text_embedder.linear_1.weight"
    return {"context_embedder.weight": rows, linear: pooled}, {
        "txt_in.weight": rows,
        "vector_in.in_layer.weight": pooled,
        "double_blocks.0.img_attn.qkv.weight": torch.zeros(24, 8),
    }


WIDE = {
    f"single_blocks.0.linear1.{n}": torch.zeros(3 * 3072 + 12288, 1) for n in ("weight", "bias")
}
"""Diffusers' converter splits this tensor at FLUX's own size."""


class Filled(dict[str, Any]):
    """A checkpoint that has every tensor a converter asks for, zeros where none was given."""

    def pop(self, key: str, *default: Any) -> Any:
        return super().pop(key) if key in self else torch.zeros(24, 8)


@pytest.mark.parametrize("prefix", [DENOISER, ""], ids=["prefixed", "bare"])
@pytest.mark.parametrize(
    ("make", "kind", "denoiser", "convert"),
    [
        (sd3, "sd3", "SD3Transformer2DModel", convert_sd3_transformer_checkpoint_to_diffusers),
        (flux, "flux", "FluxTransformer2DModel", convert_flux_transformer_checkpoint_to_diffusers),
    ],
    ids=["sd3", "flux"],
)
def test_transformers(
    tmp_path: Path, prefix: str, make: Any, kind: str, denoiser: str, convert: Any
) -> None:
    original, stored = make()
    file = SingleFile(written({prefix + n: t for n, t in stored.items()}, tmp_path))
    assert (file.kind, file.component, file.denoiser) == (kind, "transformer", denoiser)
    readers = file.readers()
    assert list(readers) == [
        "context_embedder.weight",
        "time_text_embed.text_embedder.linear_1.weight",
    ]
    converted = convert(Filled(stored | (WIDE if kind == "flux" else {})))
    for name, key in readers.items():
        assert bits(file.tensor(key)) == bits(original[name]) == bits(converted[name])
    with pytest.raises(EffaceError, match=r"holds no text_encoder .*give the diffusers folder"):
        file.text_encoder()


# refusals


def meant(**names: tuple[int, ...]) -> Tensors:
    return {n: torch.zeros(s) for n, s in names.items()}


UP = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_up.weight"
COMFY = "diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight"
OTHERS = {
    "lora": ({UP: (4, 2)}, "seems to be a LoRA"),
    "lora of comfy": ({COMFY: (4, 2)}, "seems to be a LoRA"),
    "lora of diffusers": ({"unet.down_blocks.0.to_k.lora.up.weight": (4, 2)}, "seems to be a LoRA"),
    "lokr": ({"lora_unet_x.lokr_w1": (4, 2)}, "seems to be a LoRA"),
    "vae": ({"encoder.conv_in.weight": (4, 3, 3, 3), "decoder.up.0.x": (1,)}, "seems to be a VAE"),
    "vae of ldm": ({"first_stage_model.decoder.up.0.x": (1,)}, "seems to be a VAE"),
    "clip": ({"text_model.encoder.layers.0.mlp.fc1.weight": (4, 4)}, "a text encoder alone"),
    "open_clip": ({"transformer.resblocks.0.ln_1.weight": (4,)}, "a text encoder alone"),
    "t5": ({"encoder.block.0.layer.0.SelfAttention.q.weight": (4, 4)}, "a text encoder alone"),
    "controlnet": ({"control_model.input_blocks.0.0.weight": (4, 4, 3, 3)}, "a ControlNet"),
    "motion": ({"down_blocks.0.motion_modules.0.x": (1,)}, "seems to be a motion module"),
    "adapter": ({"ip_adapter.1.to_k_ip.weight": (1, 1)}, "an image prompt adapter"),
    "embedding": ({"emb_params": (2, 768)}, "a textual inversion"),
    "diffusers unet": ({"down_blocks.0.resnets.0.conv1.weight": (1,)}, "diffusers names"),
    "diffusers flux": ({"transformer_blocks.0.attn.to_k.weight": (1, 1)}, "diffusers names"),
    "chroma": (
        {"double_blocks.0.img_attn.qkv.weight": (1, 1), "txt_in.weight": (1, 1)},
        r"no vector_in\.in_layer\.weight",
    ),
    "strange": ({"layer.weight": (2, 2)}, "no denoiser efface knows"),
    "empty": ({}, "no denoiser efface knows"),
}


@pytest.mark.parametrize(("shapes", "reason"), OTHERS.values(), ids=list(OTHERS))
def test_files_of_other_kinds(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], reason: str
) -> None:
    path = written(meant(**shapes), tmp_path)
    with pytest.raises(EffaceError, match=f"^{path}.*{reason}") as told:
        SingleFile(path).readers()
    assert "give" in str(told.value)


def test_patch_is_refused(tiny_patch: Path) -> None:
    with pytest.raises(EffaceError, match="a patch that efface wrote"):
        SingleFile(tiny_patch)


def changed(kind: str, change: Any) -> Tensors:
    tensors = tiny_unet(kind)
    change(tensors)
    return tensors


ODD = {
    "no cross-attention": (
        lambda t: [t.pop(n) for n in list(t) if ".attn2." in n],
        "text enters it nowhere",
    ),
    "half a reader": (lambda t: t.pop(KEY), f"lacks '{KEY.removeprefix(DENOISER)}'"),
    "a whole reader": (
        lambda t: [t.pop(n) for n in (KEY, KEY.replace("to_k", "to_v"))],
        f"lacks '{KEY.removeprefix(DENOISER)}'",
    ),
    "no way down": (
        lambda t: t.pop(f"{DENOISER}input_blocks.3.0.op.weight"),
        r"input_blocks\.3 is neither layer nor sampler",
    ),
    "no way up": (
        lambda t: t.pop(f"{DENOISER}output_blocks.5.2.conv.weight"),
        "goes down 3 times and up 2 times",
    ),
    "missing block": (
        lambda t: [t.pop(n) for n in list(t) if "input_blocks.2." in n],
        r"lacks input_blocks\.2:",
    ),
    "misplaced": (
        lambda t: t.update({KEY.replace("4.1", "4.3"): t[KEY].clone()}),
        "where no SD U-Net has attention",
    ),
    "two widths": (lambda t: t.update({KEY: torch.zeros(8, 5)}), "text of several widths"),
    "packed": (lambda t: t.update({KEY: torch.zeros(9, 1, 1)}), "is no matrix"),
    "integers": (
        lambda t: t.update({KEY: torch.zeros_like(t[KEY], dtype=torch.uint8)}),
        "quantised",
    ),
    "scaled": (
        lambda t: t.update({KEY.replace("weight", "scale_weight"): torch.ones(1)}),
        r"quantised \(scaled F32\)",
    ),
    "upscaler": (
        lambda t: t.update({KEY.replace("attn2", "attn1"): torch.zeros(8, 64)}),
        "reads text too",
    ),
}


@pytest.mark.parametrize(("change", "reason"), ODD.values(), ids=list(ODD))
def test_odd_unets(tmp_path: Path, change: Any, reason: str) -> None:
    path = written(changed("sd1", change), tmp_path)
    with pytest.raises(EffaceError, match=f"^{path}.*{reason}"):
        SingleFile(path).readers()


def test_unet_that_reads_a_picture(tmp_path: Path) -> None:
    path = written(tiny_unet("sdxl", cross_attention_dim=1024), tmp_path)
    with pytest.raises(EffaceError, match="conditioned on a picture"):
        SingleFile(path).readers()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *((f"model{end}", "a pickle.*convert it once") for end in (".ckpt", ".pt", ".PTH", ".bin")),
        ("model.gguf", "no .safetensors file"),
        ("folder", "no .safetensors file"),
        ("folder.safetensors", "not a regular file"),
        ("missing.safetensors", "does not exist"),
        ("missing/model.safetensors", "does not exist"),
    ],
)
def test_paths(tmp_path: Path, name: str, reason: str) -> None:
    path = tmp_path / name
    if name.startswith("folder"):
        path.mkdir()
    elif not name.startswith("missing"):
        path.write_bytes(b"never opened")
    with pytest.raises(EffaceError, match=f"^{path}.*{reason}"):
        SingleFile(path)

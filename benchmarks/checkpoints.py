"""Random checkpoints of full size from the public configs: SD 1.4 in float32, SDXL in float16.

Weights of the real ones are not needed to time what efface does, and cannot be had everywhere.
Every tensor has the published shape and type, N(0, 1 / fan-in) for matrices and near one for
norms, and is written as soon as it is drawn, so that a folder takes one tensor's memory. The
tokenizer has as many entries and merges as CLIP's, its merges being pairs of letters.

    python -m benchmarks.checkpoints    # builds what is missing; EFFACE_BENCH names the folder
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.tiny import MERGES, SPECIAL, _bytes_as_letters

SD_UNET, SDXL_UNET = 859_520_964, 2_567_463_684
"""Published parameter counts."""
MERGED = 48_894
"""Merges of CLIP's tokenizer."""
TYPES = {torch.float32: "F32", torch.float16: "F16"}
PIECE = 1 << 26
"""Numbers drawn at a time."""


def home() -> Path:
    """Where checkpoints lie: `EFFACE_BENCH`, else a folder of the user's cache."""
    return Path(os.environ.get("EFFACE_BENCH", "~/.cache/efface-bench")).expanduser()


def checkpoint(name: str) -> Path:
    """The folder of "sd14" or "sdxl", built where it is missing."""
    folder = home() / name
    if not (folder / "model_index.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        part = folder.with_name(f"{name}.part")
        shutil.rmtree(part, ignore_errors=True)
        BUILDERS[name](part)
        part.rename(folder)
    return folder


def _sd14(folder: Path) -> None:
    with torch.device("meta"):
        unet = _unet(
            SD_UNET,
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            cross_attention_dim=768,
            attention_head_dim=8,
        )
        parts = {"unet": unet, "text_encoder": _clip(768, 12, "quick_gelu"), "vae": _vae(0.18215)}
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
    }
    _write(folder, parts, index, ["tokenizer"], torch.float32)


def _sdxl(folder: Path) -> None:
    with torch.device("meta"):
        unet = _unet(
            SDXL_UNET,
            sample_size=128,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(320, 640, 1280),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
        parts = {
            "unet": unet,
            "text_encoder": _clip(768, 12, "quick_gelu"),
            "text_encoder_2": _clip(1280, 32, "gelu", projected=True),
            "vae": _vae(0.13025),
        }
    index = {
        "_class_name": "StableDiffusionXLPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "force_zeros_for_empty_prompt": True,
    }
    _write(folder, parts, index, ["tokenizer", "tokenizer_2"], torch.float16)


BUILDERS = {"sd14": _sd14, "sdxl": _sdxl}


def _unet(count: int, **config: Any) -> nn.Module:
    """A U-Net of the published size."""
    from diffusers import UNet2DConditionModel

    unet: nn.Module = UNet2DConditionModel(in_channels=4, out_channels=4, **config)
    found = sum(p.numel() for p in unet.parameters())
    assert found == count, f"{found} parameters, published are {count}"
    return unet


def _clip(width: int, layers: int, act: str, *, projected: bool = False) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=MERGED + 512 + len(SPECIAL),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        hidden_act=act,
        bos_token_id=MERGED + 512,
        eos_token_id=MERGED + 513,
        pad_token_id=1,
    )
    kind: Any = CLIPTextModelWithProjection if projected else CLIPTextModel
    return kind(config)


def _vae(scale: float) -> nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
        scaling_factor=scale,
    )


def _write(
    folder: Path,
    parts: Mapping[str, nn.Module],
    index: Mapping[str, Any],
    tokenizers: list[str],
    dtype: torch.dtype,
) -> None:
    """The diffusers folder; its index last."""
    import diffusers

    rng = torch.Generator().manual_seed(0)
    for name, module in parts.items():
        (folder / name).mkdir(parents=True)
        ours = index[name][0] == "diffusers"
        if ours:
            module.save_config(folder / name)  # type: ignore[operator]
        else:
            module.config.save_pretrained(folder / name)  # type: ignore[operator, union-attr]
        stem = "diffusion_pytorch_model" if ours else "model"
        shapes = {_published(n, plain=ours): t.shape for n, t in module.state_dict().items()}
        stream(folder / name / f"{stem}.safetensors", shapes, dtype, rng)
    for name in tokenizers:
        tokenizer().save_pretrained(folder / name)
    getattr(diffusers, index["scheduler"][1])().save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps(index, indent=1) + "\n")


def _published(name: str, *, plain: bool) -> str:
    """The name in published files: transformers has since dropped the prefix of a text model."""
    bare = plain or name.startswith(("text_model.", "text_projection."))
    return name if bare else f"text_model.{name}"


def stream(
    path: Path, shapes: Mapping[str, torch.Size], dtype: torch.dtype, rng: torch.Generator
) -> None:
    """Write a safetensors file tensor by tensor: header first, then bytes in its order."""
    header, at = dict[str, Any](), 0
    for name, shape in shapes.items():
        size = shape.numel() * dtype.itemsize
        header[name] = {
            "dtype": TYPES[dtype],
            "shape": list(shape),
            "data_offsets": [at, at + size],
        }
        at += size
    told = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    told += b" " * (-len(told) % 8)
    with path.open("wb") as file:
        file.write(len(told).to_bytes(8, "little") + told)
        for name, shape in shapes.items():
            for piece in _drawn(name, shape, rng):
                file.write(piece.to(dtype).numpy().data)


def _drawn(name: str, shape: torch.Size, rng: torch.Generator) -> Iterator[torch.Tensor]:
    """A tensor's numbers in pieces: matrices keep variance, norms stay near one."""
    matrix = len(shape) > 1
    spread = (shape.numel() / shape[0]) ** -0.5 if matrix else 0.1
    mean = 1.0 if not matrix and name.endswith("weight") else 0.0
    for start in range(0, shape.numel(), PIECE):
        count = min(PIECE, shape.numel() - start)
        yield torch.randn(count, generator=rng).mul_(spread).add_(mean)


def tokenizer() -> Any:
    """CLIP's byte-level BPE in its full size."""
    from transformers import CLIPTokenizer

    letters = _bytes_as_letters()
    plain = sorted(letters, key=lambda c: (not ("a" <= c <= "z"), c))
    first = [(one, two) for one, two in (merge.split() for merge in MERGES)]
    pairs = ((a, b + end) for a, b, end in product(plain, plain, ("</w>", "")))
    others = (pair for pair in pairs if pair not in first)
    merges = [*first, *islice(others, MERGED - len(first))]
    words = [*letters, *(c + "</w>" for c in letters), *(a + b for a, b in merges), *SPECIAL]
    return CLIPTokenizer(
        vocab={word: i for i, word in enumerate(words)},
        merges=merges,  # type: ignore[arg-type]
        model_max_length=77,
    )


if __name__ == "__main__":
    for kind in BUILDERS:
        print(checkpoint(kind))

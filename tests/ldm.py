"""Diffusers and transformers state dicts under the names of single-file checkpoints.

Blocks are numbered by arithmetic from a known number of layers per level, the other way round than
`efface.backbones.ldm_names` finds them.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tests.tiny import _fill

Tensors = dict[str, Tensor]
ROW = 64
"""Width of the tiny encoders: one attention head of CLIP's."""
DENOISER = "model.diffusion_model."
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
SD = {
    "layers_per_block": 2,
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
}
XL = {
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
    "up_block_types": (*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
}
REAL: dict[str, dict[str, Any]] = {
    "sd1": {**SD, "cross_attention_dim": 768},
    "sd2": {
        **SD,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "sdxl": {
        **XL,
        "block_out_channels": (320, 640, 1280),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
"""Configs of the U-Nets as they were released."""
SMALL = {"norm_num_groups": 4, "attention_head_dim": 4, "sample_size": 8}
TINY: dict[str, dict[str, Any]] = {
    "sd1": {**SD, **SMALL, "block_out_channels": (4, 8, 8, 8), "cross_attention_dim": ROW},
    "sd2": {
        **SD,
        **SMALL,
        "block_out_channels": (4, 8, 8, 8),
        "cross_attention_dim": ROW,
        "use_linear_projection": True,
    },
    "sdxl": {
        **XL,
        **SMALL,
        "block_out_channels": (4, 8, 8),
        "transformer_layers_per_block": (1, 2, 3),
        "cross_attention_dim": 3 * ROW,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 2 * ROW + 6 * 8,
    },
}
"""Configs of the same structures, a few numbers wide."""


def unet(config: Mapping[str, Any], seed: int = 0) -> Any:
    """A random U-Net."""
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng():
        return filled(UNet2DConditionModel(**config), seed)


def filled(part: nn.Module, seed: int = 0) -> Any:
    """The same module with random numbers."""
    _fill(part, torch.Generator().manual_seed(seed))
    return part.eval()


def ldm_unet(state: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """A diffusers U-Net's state dict under LDM names."""
    layers = config["layers_per_block"]
    crossed = [kind.startswith("Cross") for kind in config["up_block_types"]]

    def block(name: str) -> str:
        for ours, theirs in ENDS.items():
            if name.startswith(f"{ours}."):
                return name.replace(ours, theirs)
        way, *rest = name.split(".")
        if way == "mid_block":
            part, number, *tail = rest
            place = f"middle_block.{2 * int(number) + (part == 'attentions')}"
        else:
            level, part, number, *tail = rest
            down, first = way == "down_blocks", (layers + 1) * int(level)
            if part == "downsamplers":
                return f"input_blocks.{first + layers + 1}.0.op.{tail[-1]}"
            if part == "upsamplers":
                return f"output_blocks.{first + layers}.{1 + crossed[int(level)]}.conv.{tail[-1]}"
            n = first + int(number) + down
            place = f"{'input' if down else 'output'}_blocks.{n}.{int(part == 'attentions')}"
        if part == "resnets":
            tail = [RESNET[tail[0]], *tail[1:]]
        return ".".join([place, *tail])

    renamed = {block(name): tensor for name, tensor in state.items()}
    assert len(renamed) == len(state)
    return {DENOISER + name: tensor for name, tensor in renamed.items()}


def clip(vocab: int = 300, layers: int = 2, act: str = "quick_gelu", seed: int = 0) -> Any:
    """A random CLIP text encoder."""
    return _clip("CLIPTextModel", vocab, layers, act, seed)


def projected(vocab: int = 300, layers: int = 2, act: str = "gelu", seed: int = 0) -> Any:
    """A random CLIP text encoder with a projection."""
    return _clip("CLIPTextModelWithProjection", vocab, layers, act, seed)


def _clip(kind: str, vocab: int, layers: int, act: str, seed: int) -> Any:
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=vocab,
        hidden_size=ROW,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=1,
        max_position_embeddings=16,
        hidden_act=act,
        projection_dim=ROW,
        bos_token_id=vocab - 2,
        eos_token_id=vocab - 1,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        return filled(getattr(transformers, kind)(config), seed)


def t5(seed: int = 0, vocab: int = 50, width: int = 16) -> Any:
    """A random T5 encoder."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=vocab, d_model=width, d_kv=6, d_ff=24, num_layers=2, num_heads=3,
        relative_attention_num_buckets=8, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    with torch.random.fork_rng():
        return filled(T5EncoderModel(config), seed)


def named(encoder: Any, prefix: str = "", top: str = "text_model.") -> Tensors:
    """A CLIP encoder's state dict as it is stored: `text_model.` is there whatever transformers."""
    bare = {n.removeprefix("text_model."): t for n, t in encoder.state_dict().items()}
    return {
        prefix + (n if n.startswith("text_projection") else top + n): t for n, t in bare.items()
    }


def open_clip(encoder: Any, prefix: str = "") -> Tensors:
    """A CLIP encoder's state dict as OpenCLIP stores it."""
    own = named(encoder, top="")
    found: Tensors = {}
    for name, tensor in own.items():
        if name.startswith("encoder.layers."):
            _, _, n, part = name.split(".", 3)
            block = f"transformer.resblocks.{n}"
            if fused := re.fullmatch(r"self_attn\.q_proj\.(weight|bias)", part):
                parts = [own[name.replace("q_proj", f"{p}_proj")] for p in "qkv"]
                found[f"{block}.attn.in_proj_{fused[1]}"] = torch.cat(parts)
            elif not part.startswith(("self_attn.k_proj", "self_attn.v_proj")):
                for ours, theirs in LAYER.items():
                    part = part.replace(ours, theirs)
                found[f"{block}.{part}"] = tensor
        elif name.startswith("text_projection"):
            found["text_projection"] = tensor.T.contiguous()
        else:
            found[ENDINGS.get(name, name.replace("final_layer_norm", "ln_final"))] = tensor
    found["logit_scale"] = torch.tensor(4.6)
    return {prefix + name: tensor for name, tensor in found.items()}


LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "fc1": "c_fc",
    "fc2": "c_proj",
    "self_attn": "attn",
}
ENDINGS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
}


def open_clip_rows(file: Tensors, ids: Tensor, layers: int, act: Callable[[Tensor], Tensor]) -> Any:
    """Last rows and pooled row by OpenCLIP's own arithmetic: the oracle for its layout."""
    positions = file["positional_embedding"]
    x = file["token_embedding.weight"][ids] + positions[: ids.shape[1]]
    mask = torch.full((ids.shape[1],) * 2, float("-inf")).triu(1)
    width = x.shape[-1]

    def norm(x: Tensor, name: str) -> Tensor:
        return nn.functional.layer_norm(x, (width,), file[f"{name}.weight"], file[f"{name}.bias"])

    def linear(x: Tensor, name: str) -> Tensor:
        return nn.functional.linear(x, file[f"{name}.weight"], file[f"{name}.bias"])

    for n in range(layers):
        at = f"transformer.resblocks.{n}"
        attention = nn.MultiheadAttention(width, width // 64, batch_first=True, device="meta")
        own = {
            k.removeprefix(f"{at}.attn."): v for k, v in file.items() if k.startswith(f"{at}.attn.")
        }
        attention.load_state_dict(own, assign=True)
        h = norm(x, f"{at}.ln_1")
        x = x + attention(h, h, h, need_weights=False, attn_mask=mask)[0]
        x = x + linear(act(linear(norm(x, f"{at}.ln_2"), f"{at}.mlp.c_fc")), f"{at}.mlp.c_proj")
    rows = norm(x, "ln_final")
    pooled = rows[torch.arange(len(ids)), ids.argmax(-1)]
    return rows, pooled @ file["text_projection"] if "text_projection" in file else None

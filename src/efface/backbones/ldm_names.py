"""Names in single-file checkpoints: what a file holds, and where text enters its denoiser.

Everything here is derived from tensor names and shapes; nothing is read. The U-Net's blocks are not
looked up in a table: a level ends where a sampler stands, and diffusers counts levels.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from efface.core import EffaceError

Shapes = Mapping[str, tuple[int, ...]]
"""Tensor name -> shape."""
DENOISER = "model.diffusion_model."
"""Prefix of the denoiser's tensors, where the file holds more than a denoiser."""
PICTURE_WIDTH = 1024
"""Width of the text rows in U-Nets whose `label_emb` takes a picture (unCLIP) or a frame rate."""


class Kind(NamedTuple):
    """What a single file holds."""

    name: str
    """One of sd1, sd2, sdxl, sd3, flux."""
    component: str
    """The diffusers component its denoiser becomes."""
    denoiser: str
    """The diffusers class of that component."""
    readers: Mapping[str, str]
    """Diffusers name -> stored name, of every matrix that text first enters."""


TRANSFORMERS = {
    "joint_blocks.": ("sd3", "SD3Transformer2DModel", "context_embedder", "y_embedder.mlp.0"),
    "double_blocks.": ("flux", "FluxTransformer2DModel", "txt_in", "vector_in.in_layer"),
}
"""Prefix of the blocks -> kind, class, and what reads the rows and the pooled row of text."""

OTHERS = (
    (r"(^|\.)lora_|\.lora\.|hada_w|lokr_w", "a LoRA", "give the model it was made for"),
    (r"^control_model\.|^controlnet_|^input_hint_block\.", "a ControlNet", "give its base model"),
    (r"\.motion_modules\.", "a motion module", "give its base model"),
    (r"^(ip_adapter|image_proj)\.", "an image prompt adapter", "give its base model"),
    (
        r"^(down_blocks|transformer_blocks)\.\d",
        "a denoiser with diffusers names",
        "give the whole diffusers folder",
    ),
    (
        r"^(emb_params|clip_[lg]|string_to_param)",
        "a textual inversion embedding",
        "give the model it was made for",
    ),
    (
        r"^((first_stage_model|vae)\.)?(en|de)coder\.(down|up|mid|conv_in)",
        "a VAE",
        "give a file that holds the denoiser",
    ),
    (
        r"(^|\.)(text_model|resblocks|encoder\.block|encoder\.layers)\.",
        "a text encoder alone",
        "give a file that holds the denoiser",
    ),
)
"""Pattern of a tensor name -> what a file without a denoiser seems to be, and the remedy."""


def recognise(shapes: Shapes, file: str) -> Kind:
    """The kind of a checkpoint; `file` says whose it is if efface reads no such kind."""
    prefix = DENOISER if any(name.startswith(DENOISER) for name in shapes) else ""
    names = {n.removeprefix(prefix): s for n, s in shapes.items() if n.startswith(prefix)}
    if "input_blocks.0.0.weight" in names:
        return _unet(names, prefix, file)
    for start, (name, denoiser, rows, pooled) in TRANSFORMERS.items():
        if not any(n.startswith(start) for n in names):
            continue
        readers = {
            "context_embedder.weight": f"{rows}.weight",
            "time_text_embed.text_embedder.linear_1.weight": f"{pooled}.weight",
        }
        if lost := [n for n in readers.values() if n not in names]:
            raise EffaceError(
                f"{file} has the blocks of {name} but no {lost[0]}: text enters it in a way efface "
                "does not know, give a file of SD 1, SD 2, SDXL, SD3 or FLUX.1"
            )
        stored = {ours: prefix + theirs for ours, theirs in readers.items()}
        return Kind(name, "transformer", denoiser, stored)
    for pattern, what, remedy in OTHERS:
        if any(re.search(pattern, name) for name in shapes):
            raise EffaceError(f"{file} seems to be {what}: {remedy}")
    raise EffaceError(
        f"{file} holds no denoiser efface knows: give a file of SD 1, SD 2, SDXL, SD3 or FLUX.1"
    )


def _unet(names: Shapes, prefix: str, file: str) -> Kind:
    _check_context(names, file)
    readers = {ours: prefix + theirs for ours, theirs in unet_readers(names, file).items()}
    flat = any(n.endswith(".1.proj_in.weight") and len(s) == 2 for n, s in names.items())
    name = "sd2" if flat else "sd1"  # SD 1 enters its attention by a convolution, of four axes
    if (pooled := "label_emb.0.0.weight") in names:
        name = "sdxl"
        readers["add_embedding.linear_1.weight"] = prefix + pooled
    return Kind(name, "unet", "UNet2DConditionModel", readers)


def _check_context(names: Shapes, file: str) -> None:
    """Refuse U-Nets that text, or something else, enters by other doors."""
    shape = {n: s for n, s in names.items() if n.endswith((".to_q.weight", ".to_k.weight"))}
    if wrong := [n for n, s in shape.items() if len(s) != 2]:
        raise EffaceError(f"{file}: {wrong[0]!r} is no matrix: give an unquantised checkpoint")
    width = {s[1] for n, s in shape.items() if n.endswith("attn2.to_k.weight")}
    if not width:
        raise EffaceError(f"{file}: no tensor ends in attn2.to_k.weight: text enters it nowhere")
    if len(width) > 1:
        raise EffaceError(
            f"{file}: its blocks read text of several widths ({sorted(width)}): the file is damaged"
        )
    for name, (_, read) in shape.items():
        own = name.replace("attn1.to_k.", "attn1.to_q.")
        if own != name and own in shape and shape[own][1] != read:
            raise EffaceError(
                f"{file}: {name!r} reads text too, as in an upscaler, and efface would leave it: "
                "give a text-to-image checkpoint"
            )
    if width == {PICTURE_WIDTH} and "label_emb.0.0.weight" in names:
        raise EffaceError(
            f"{file} is conditioned on a picture besides the text (unCLIP, video): "
            "give a text-to-image checkpoint"
        )


READER = re.compile(r"(.+)(\.transformer_blocks\.\d+)\..+")


def unet_readers(names: Iterable[str], file: str) -> dict[str, str]:
    """Diffusers name -> LDM name of every cross-attention key and value, in the file's order."""
    held = dict.fromkeys(names)
    blocks = unet_blocks(held, file)
    found: dict[str, str] = {}
    for place, block in dict.fromkeys(m.groups() for name in held if (m := READER.fullmatch(name))):
        if place not in blocks:
            raise EffaceError(
                f"{file}: {place + block!r} stands where no SD U-Net has attention: "
                "give a file of SD 1, SD 2 or SDXL"
            )
        for part in ("to_k", "to_v"):
            tail = f"{block}.attn2.{part}.weight"
            if place + tail not in held:
                raise EffaceError(f"{file} lacks {place + tail!r}: download it again")
            found[blocks[place] + tail] = place + tail
    return found


def unet_blocks(names: Iterable[str], file: str) -> dict[str, str]:
    """LDM name -> diffusers name of every place where a U-Net may have attention."""
    held = set(names)
    found = {}
    down = up = layer = 0
    for n in range(1, _count(held, "input_blocks", file)):
        if f"input_blocks.{n}.0.op.weight" in held:
            down, layer = down + 1, 0
        elif f"input_blocks.{n}.0.in_layers.0.weight" in held:
            found[f"input_blocks.{n}.1"] = f"down_blocks.{down}.attentions.{layer}"
            layer += 1
        else:
            raise EffaceError(
                f"{file}: its input_blocks.{n} is neither layer nor sampler: download it again"
            )
    layer = 0
    for n in range(_count(held, "output_blocks", file)):
        found[f"output_blocks.{n}.1"] = f"up_blocks.{up}.attentions.{layer}"
        layer += 1
        if any(f"output_blocks.{n}.{i}.conv.weight" in held for i in (1, 2)):
            up, layer = up + 1, 0
    if up != down:
        raise EffaceError(
            f"{file}: its U-Net goes down {down} times and up {up} times: download it again"
        )
    for n in range(1, _count(held, "middle_block", file), 2):
        found[f"middle_block.{n}"] = f"mid_block.attentions.{n // 2}"
    return found


def _count(names: Iterable[str], group: str, file: str) -> int:
    """How many numbered blocks a group has, from 0 on without a gap."""
    numbers = {m[1] for name in names if (m := re.match(rf"{group}\.(\d{{1,4}})\.", name))}
    for n in range(len(numbers)):
        if str(n) not in numbers:
            raise EffaceError(f"{file} lacks {group}.{n}: download it again")
    return len(numbers)

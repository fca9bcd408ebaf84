"""Diffusers names of a denoiser's tensors to those of the original files, by arithmetic.

The way back from `efface.backbones.ldm_names`, for models that come as a folder.
"""

import re
from collections import Counter
from collections.abc import Iterable

from efface.backbones.ldm_names import TRANSFORMERS

POOLED = {"add_embedding.linear_1": "label_emb.0.0"}
PLACE = re.compile(r"(?:down|up)_blocks\.\d+\.attentions\.\d+|mid_block\.attentions\.\d+")


def original_names(kind: str, names: Iterable[str]) -> dict[str, str]:
    """Diffusers name -> original name, of the tensors in a family's attention and its readers.

    `kind` is the family; `names` are all that its denoiser has.
    """
    held = list(names)
    for name, _, rows, pooled in TRANSFORMERS.values():
        if name == kind:
            linear = "time_text_embed.text_embedder.linear_1"
            modules = {"context_embedder": rows, linear: pooled}
            break
    else:
        modules = POOLED | unet_places(held)
    return {
        name: modules[module] + name.removeprefix(module)
        for name in held
        if (module := _module(name)) in modules
    }


def _module(name: str) -> str:
    """The place of a tensor in a U-Net's attention, else the module that holds it."""
    place = PLACE.match(name)
    return place[0] if place else name.rpartition(".")[0]


def unet_places(names: Iterable[str]) -> dict[str, str]:
    """Diffusers name -> LDM name of every place where a U-Net has attention, or could.

    LDM numbers its blocks straight on, samplers of the way down included.
    """
    layers = Counter(
        (m[1], int(m[2]))
        for name in names
        if (m := re.fullmatch(r"(down|up)_blocks\.(\d+)\.resnets\.\d+\.conv1\.weight", name))
    )
    found = {"mid_block.attentions.0": "middle_block.1"}
    down, up = 1, 0
    for way, level in sorted(layers):
        for layer in range(layers[way, level]):
            place = f"{way}_blocks.{level}.attentions.{layer}"
            if way == "down":
                found[place], down = f"input_blocks.{down}.1", down + 1
            else:
                found[place], up = f"output_blocks.{up}.1", up + 1
        down += way == "down"
    return found

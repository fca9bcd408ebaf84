"""Record `tests/parity/receler.safetensors`: what the authors' eraser, mask and loss lines give.

Run with a python that has torch, einops and omegaconf, from a checkout of jasper0314-huang/Receler
at 3ccedc9 (MIT): `python record_receler.py CHECKOUT`. Their eraser and their mask are called; the
penalty and the putting in of learned rows stand in the middle of their training loop, so those
lines are read from their file and run as they are. What they import of torchvision and of an old
diffusers, none of which these use, is stood in for.
"""

import json
import sys
import textwrap
import types
from pathlib import Path

import torch
from safetensors.torch import save_file

root = Path(sys.argv[1])
sys.path[:0] = [str(root), str(root / "receler")]
for name in ("torchvision.utils.save_image", "diffusers.models.lora.LoRACompatibleConv"):
    *path, leaf = name.split(".")
    for i in range(len(path)):
        sys.modules[".".join(path[: i + 1])] = types.ModuleType(path[i])
    setattr(sys.modules[".".join(path)], leaf, None)

from einops import rearrange  # noqa: E402
from receler.concept_reg import get_mask, ldm_module_prefix_name  # noqa: E402
from receler.erasers.utils import AdapterEraser  # noqa: E402

OUT = Path(__file__).parent / "receler.safetensors"
WIDTH, RANK, HEADS, TEXT = 6, 5, 2, 8
SIDES = {"input_blocks.1": 24, "input_blocks.4": 16, "middle_block.1": 8, "output_blocks.5": 16}
WORDS = [1, 2]
rng = torch.Generator().manual_seed(7)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=rng)


def lines(begin: str, end: str) -> str:
    """Their training loop from the line that begins so to the one before that begins so."""
    text = (root / "train_receler.py").read_text().splitlines()
    at = [line.strip() for line in text]
    first = next(i for i, line in enumerate(at) if line.startswith(begin))
    last = next(i for i in range(first, len(at)) if at[i].startswith(end))
    return textwrap.dedent("\n".join(text[first:last]))


held: dict[str, torch.Tensor] = {}
eraser = AdapterEraser(WIDTH, RANK)
for name, weight in eraser.named_parameters():
    held[f"begun/{name}"] = weight.detach().clone()
    weight.data = draw(*weight.shape)
    held[f"eraser/{name}"] = weight.detach()
held["eraser/rows"] = draw(2, 9, WIDTH)
held["eraser/answer"] = eraser(held["eraser/rows"]).detach()

maps = {f"{n}.1.transformer_blocks.0.attn2": draw(1, HEADS, s * s, TEXT).softmax(-1)
        for n, s in SIDES.items()}  # fmt: skip
outs = {f"{n}.1.transformer_blocks.0.adapter": draw(1, s * s, WIDTH) for n, s in SIDES.items()}
for name, tensor in (*maps.items(), *outs.items()):
    held[f"layer/{name}"] = tensor
for threshold in (0.1, 0.4):
    masks = get_mask(maps, torch.tensor(WORDS), threshold)
    for name, mask in masks.items():
        held[f"mask/{threshold}/{name}"] = mask.clone()
    scope = {
        "torch": torch, "device": "cpu", "eraser_outs": dict(outs), "attn_masks": masks,
        "ldm_module_prefix_name": ldm_module_prefix_name, "rearrange": rearrange,
    }  # fmt: skip
    exec(lines("loss_eraser_reg = torch", "loss_total += args.concept"), scope)
    held[f"penalty/{threshold}"] = torch.as_tensor(scope["loss_eraser_reg"])

held["rows/before"] = draw(1, TEXT, WIDTH)
scope = {
    "emb_n": held["rows/before"].clone(), "advrs_indices": torch.arange(3, 7), "word_idx": 0,
    "advrs_prompt_embs": [torch.nn.Parameter(draw(1, 4, WIDTH))],
}  # fmt: skip
held["rows/learned"] = scope["advrs_prompt_embs"][0].detach()
exec(lines("emb_n = emb_n.detach()", "# get conditional score from model"), scope)
held["rows/after"] = scope["emb_n"].detach()

story = {"commit": "jasper0314-huang/Receler@3ccedc9aa1c2a2644258edf67e564a07447019c0",
         "words": WORDS, "torch": torch.__version__}  # fmt: skip
save_file({n: t.detach().contiguous().clone() for n, t in held.items()}, OUT,
          {"parity": json.dumps(story)})  # fmt: skip

"""Cross-attention of a denoiser: which layers it is, and where in the picture they see words."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from efface.backbone import Denoiser
from efface.core import EffaceError, Said

END = ".attn2.to_out.0.weight"
"""How the matrix is named that a cross-attention's output leaves through."""


def crossed(denoiser: Denoiser) -> dict[str, int]:
    """The cross-attentions, by component/layer, and how wide what each puts out is."""
    found = {
        name.removesuffix(END) + ".attn2": len(denoiser.weight(name))
        for name in denoiser.names()
        if name.endswith(END)
    }
    if not found:
        raise EffaceError(
            "this denoiser has no cross-attention of its own, text and picture attend in one: "
            "nothing can stand behind it; erase with rece, or with esd and its layers 'full'"
        )
    return found


@torch.no_grad()
def seen(
    denoiser: Denoiser,
    latents: Float[Tensor, "batch c h w"],
    times: Float[Tensor, "batch"],
    said: Said,
    words: Bool[Tensor, "batch text"],
) -> dict[str, Float[Tensor, "batch _"]]:
    """How much each place of the picture attends to a prompt's `words`, by layer.

    Softmax over all of the text, mean over the words and over heads.
    """
    found = dict[str, Tensor]()

    def listen(site: str) -> Any:
        def heed(attn: Any, args: tuple[Any, ...], given: Mapping[str, Any]) -> None:
            maps = probabilities(attn, args[0], **given).mean(1)
            share = (words / words.sum(1, keepdim=True)).to(maps.device, maps.dtype)
            found[site] = (maps @ share[:, :, None])[:, :, 0].float()

        return heed

    handles = [
        denoiser.module.get_submodule(site.partition("/")[2]).register_forward_pre_hook(
            listen(site), with_kwargs=True
        )
        for site in crossed(denoiser)
    ]
    try:
        denoiser.predict(latents, times, said)
    finally:
        for handle in handles:
            handle.remove()
    return found


def probabilities(
    attn: Any,
    rows: Float[Tensor, "batch tokens width"],
    encoder_hidden_states: Float[Tensor, "batch text wide"],
    attention_mask: Tensor | None = None,
    **_: Any,
) -> Float[Tensor, "batch heads tokens text"]:
    """What a diffusers attention weighs text by, which its fast kernels do not tell."""
    text = encoder_hidden_states
    query, key = attn.to_q(rows), attn.to_k(text)
    if attn.norm_q is not None:
        query, key = attn.norm_q(query), attn.norm_k(key)
    mask = attn.prepare_attention_mask(attention_mask, text.shape[1], len(rows))
    if mask is not None:
        mask = mask.expand(-1, rows.shape[1], -1)
    scores = attn.get_attention_scores(
        attn.head_to_batch_dim(query), attn.head_to_batch_dim(key), mask
    )
    split: Tensor = scores.unflatten(0, (len(rows), attn.heads))
    return split

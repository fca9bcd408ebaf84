"""Text encoders from bare tensors: configs inferred from shapes, transformers models built of both.

Models are laid out without memory first, so that a tensor that is missing, left over or of another
shape is told before any is read.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from efface.backbones.ldm_encoders import (
    POSITIONS,
    PROJECTED,
    PROJECTION,
    TOKENS,
    Layout,
    Piece,
    pieces,
)
from efface.backbones.ldm_names import Shapes
from efface.core import EffaceError

HEAD = 64
"""Width of one attention head in every CLIP text encoder."""


class TextEncoder(NamedTuple):
    """A text encoder's class, config and weights."""

    model: str
    """The transformers class."""
    config: Mapping[str, Any]
    """What its config class is made with; `pad_token_id` is what its tokenizer must pad with."""
    state: Mapping[str, Tensor]
    """Its state dict as the installed transformers names it, in the file's precision."""

    def build(self, dtype: torch.dtype = torch.float32) -> Any:
        """The model, every tensor of it from the file.

        As transformers reads it: in half precision it keeps some of T5's layers in full.
        """
        model = _blank(self.model, self.config)
        wide = model._keep_in_fp32_modules or () if dtype == torch.float16 else ()
        state = {
            name: tensor.to(torch.float32 if set(wide) & set(name.split(".")) else dtype)
            for name, tensor in self.state.items()
        }
        model.load_state_dict(state, strict=True, assign=True)
        for module in model.modules():
            if isinstance(found := getattr(module, "position_ids", None), Tensor):
                module.position_ids = torch.arange(found.shape[-1]).expand(1, -1)
        model.tie_weights()
        return model.eval()


def fit(layout: Layout, shapes: Shapes, file: str) -> tuple[dict[str, Any], dict[str, Piece]]:
    """An encoder's config, and the source of every tensor of its state dict."""
    found = pieces(layout, shapes)
    own = {name: piece.shape(shapes) for name, piece in found.items()}
    try:
        config = _t5_config(own) if layout.style == "t5" else _clip_config(layout, own)
        blank = _blank(layout.model, config).state_dict()
    except (LookupError, ValueError, ArithmeticError, RuntimeError) as error:
        raise EffaceError(
            f"{file}: {layout.prefix}* does not make a {layout.model} ({error}): "
            "download the file again"
        ) from error
    if not any(name.startswith("text_model.") for name in blank):  # transformers from 5.6 on
        found = {name.removeprefix("text_model."): piece for name, piece in found.items()}
    for name in sorted(blank.keys() ^ found.keys()):
        verb = "lacks" if name in blank else "has an unexpected"
        raise EffaceError(f"{file}: its {layout.which} {verb} {name!r}: download the file again")
    for name, tensor in blank.items():
        if (shape := found[name].shape(shapes)) != tensor.shape:
            raise EffaceError(
                f"{file}: {name!r} of its {layout.which} is {list(shape)}, "
                f"not {list(tensor.shape)}: download the file again"
            )
    return config, found


def _blank(model: str, config: Mapping[str, Any]) -> Any:
    """The model without memory behind its tensors."""
    import transformers

    kind: type[nn.Module] = getattr(transformers, model)
    kinds: Any = transformers.T5Config if model.startswith("T5") else transformers.CLIPTextConfig
    with torch.device("meta"):
        return kind(kinds(**config))


def _layers(names: Collection[str], start: str) -> int:
    """How many different numbers follow `start`."""
    return len({n.removeprefix(start).split(".")[0] for n in names if n.startswith(start)})


def _clip_config(layout: Layout, own: Shapes) -> dict[str, Any]:
    vocab, width = own[TOKENS]
    layer = "text_model.encoder.layers."
    if width % HEAD:
        raise ValueError(f"rows of {width} numbers do not make heads of {HEAD}")
    config = {
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": own[f"{layer}0.mlp.fc1.weight"][0],
        "num_hidden_layers": _layers(own, layer),
        "num_attention_heads": width // HEAD,
        "max_position_embeddings": own[POSITIONS][0],
        "hidden_act": "quick_gelu" if layout.openai else "gelu",
        "bos_token_id": vocab - 2,
        "eos_token_id": vocab - 1,
        "pad_token_id": vocab - 1 if layout.openai else 0,
    }
    if layout.model == PROJECTED:
        config["projection_dim"] = own[PROJECTION][0]
    return config


def _t5_config(own: Shapes) -> dict[str, Any]:
    block = "encoder.block."
    vocab, width = own["shared.weight"]
    attention, feed = f"{block}0.layer.0.SelfAttention", f"{block}0.layer.1.DenseReluDense"
    buckets, heads = own[f"{attention}.relative_attention_bias.weight"]
    gated = f"{feed}.wi_0.weight" in own
    return {
        "vocab_size": vocab,
        "d_model": width,
        "d_kv": own[f"{attention}.q.weight"][0] // heads,
        "d_ff": own[f"{feed}.wi_0.weight" if gated else f"{feed}.wi.weight"][0],
        "num_layers": _layers(own, block),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "feed_forward_proj": "gated-gelu" if gated else "relu",
    }

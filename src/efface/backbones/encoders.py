"""One text encoder each: prompts to rows, and where such rows can lie.

The building blocks of `efface.backbones.text`. A tokenizer and a model as the pipeline holds them;
rows come out in float32 on the CPU.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from efface.core import Ellipsoid
from efface.ellipsoids import layer_norm, projected, rms_norm


class Words(NamedTuple):
    """Tokenized prompts: where the last word is, where attention ends, whether there is a word."""

    ids: Int[Tensor, "prompts tokens"]
    mask: Int[Tensor, "prompts tokens"]
    last: Int[Tensor, "prompts"]
    spoken: Bool[Tensor, "prompts"]


class Span(NamedTuple):
    """How to find a prompt among its tokens: behind the start tokens, to the first end token."""

    before: int
    end: int

    def holds(self, ids: Int[Tensor, "prompts tokens"]) -> Bool[Tensor, "prompts tokens"]:
        """Positions of the prompt itself, its end token included."""
        ends = ids == self.end
        held = ends.cumsum(1) - ends.long() == 0
        held[:, : self.before] = False
        return held


class Encoder(ABC):
    """What all text encoders share."""

    before = 0
    """Special tokens ahead of the words."""
    after = 0
    """Special tokens behind them."""
    live = False
    """Whether gradients pass."""
    stack = ""
    """Name of its list of layers; empty where prompts are not alone in it."""

    def __init__(self, tokenizer: Any, model: Any) -> None:
        self.tokenizer, self.model = tokenizer, model

    @property
    @abstractmethod
    def norm(self) -> Any:
        """The norm that the last states leave."""

    @abstractmethod
    def surface(self) -> Ellipsoid:
        """Where the last states lie."""

    @property
    def span(self) -> Span:
        """Where a prompt is among its tokens."""
        return Span(self.before, self.tokenizer.eos_token_id)

    def layers(self) -> Mapping[str, Any]:
        """Its layers by name, first to last; the name leaves out transformers' "text_model."."""
        if not self.stack:
            return {}
        found = getattr(self.model, "text_model", self.model).get_submodule(self.stack)
        return {f"{self.stack}.{i}": layer for i, layer in enumerate(found)}

    def words(self, prompts: Sequence[str], length: int) -> Words:
        """Pad and truncate to `length`, as the pipelines do."""
        found = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=length,
            truncation=True,
            return_tensors="pt",
        )
        count = found.attention_mask.sum(1)
        last = (count - 1 - self.after).clamp(min=0)
        return Words(found.input_ids, found.attention_mask, last, count > self.before + self.after)

    def run(self, words: Words, *, masked: bool, **options: Any) -> Any:
        """The model's output; `masked`: padding is hidden from it."""
        device = self.model.device
        mask = words.mask.to(device) if masked else None
        with torch.set_grad_enabled(self.live and torch.is_grad_enabled()):
            return self.model(words.ids.to(device), attention_mask=mask, **options)


class Clip(Encoder):
    """A CLIP text model, with a projection or without."""

    before = after = 1
    stack = "encoder.layers"

    @property
    def length(self) -> int:
        """Positions of a prompt."""
        longest: int = self.model.config.max_position_embeddings
        return min(self.tokenizer.model_max_length, longest)

    @property
    def norm(self) -> Any:
        return getattr(self.model, "text_model", self.model).final_layer_norm

    def read(self, prompts: Sequence[str], *, deep: bool = False) -> tuple[Words, Any]:
        """Tokens and output, with the hidden states if `deep`."""
        words = self.words(prompts, self.length)
        return words, self.run(words, masked=self._masked, output_hidden_states=deep)

    def embedded(
        self, ids: Int[Tensor, "prompts tokens"], rows: Float[Tensor, "prompts tokens width"]
    ) -> tuple[Words, Any]:
        """The same of tokens whose embeddings are given; the rest of the encoder runs as it is."""
        count = self.span.holds(ids).sum(1)
        mask = (torch.arange(ids.shape[1]) <= count[:, None]).long()
        words = Words(ids, mask, (count - 1).clamp(min=0), count > 1)
        table = self.model.get_input_embeddings()
        handle = table.register_forward_hook(lambda *_: rows.to(table.weight))
        try:
            return words, self.run(words, masked=self._masked)
        finally:
            handle.remove()

    @property
    def _masked(self) -> bool:
        return bool(getattr(self.model.config, "use_attention_mask", False))

    def surface(self) -> Ellipsoid:
        return layer_norm(self.norm.weight, self.norm.bias)

    def projected(self) -> Ellipsoid:
        """Where projected end tokens lie."""
        return projected(self.model.text_projection.weight, self.surface())


class T5(Encoder):
    """The encoder of a T5."""

    after = 1
    stack = "encoder.block"

    @property
    def norm(self) -> Any:
        return self.model.encoder.final_layer_norm

    def surface(self) -> Ellipsoid:
        return rms_norm(self.norm.weight)


class Gemma(Encoder):
    """A Gemma 2 language model without its head."""

    before = 1

    @property
    def norm(self) -> Any:
        """The RMSNorm that states leave; its scale is 1 + weight."""
        return getattr(self.model, "model", self.model).norm

    def surface(self) -> Ellipsoid:
        return rms_norm(1 + self.norm.weight)

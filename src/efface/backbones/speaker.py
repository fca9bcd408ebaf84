"""The live text encoders: the one door for whatever trains them.

A view whose tensors share storage with the model's own, frozen and in evaluation mode (layers kept
in half precision are copied in float32); other weights are handed to `say` and are never put into a
model.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from efface.backbones.denoiser import frozen_view
from efface.backbones.sites import Family
from efface.backbones.text import SD, TextSide
from efface.backbones.widen import widened_for_good
from efface.core import NO_WEIGHTS, EffaceError, Said

LEVEL = "text_model."
"""A level of names that transformers puts in or leaves out from one release to the next."""
Item = TypeVar("Item")


class LiveSpeaker:
    """Implements `core.Speaker`."""

    def __init__(self, kind: Family, text: TextSide, width: int) -> None:
        """`width`: of the rows that the denoiser reads."""
        self._kind, self._voice = kind, _Voice(kind, text, width)
        self._own = spoken(
            (name.replace(".", "/", 1), (name, weight))
            for name, weight in self._voice.named_parameters()
        )

    def names(self) -> list[str]:
        """Every parameter, by component/name; the name leaves out transformers' "text_model."."""
        return list(self._own)

    def weight(self, name: str) -> Tensor:
        """One of them."""
        return self._own[name][1]

    def say(self, prompts: Sequence[str], weights: Mapping[str, Tensor] = NO_WEIGHTS) -> Said:
        """Prompts on every stream, differentiable in `weights`, which stand in for the model's."""
        swapped = {}
        for name, weight in weights.items():
            real, own = self._own[name]
            swapped[real] = weight.to(own.device, own.dtype)
        said: Said = functional_call(self._voice, swapped, (prompts,))
        return said

    def say_embedded(
        self, words: Int[Tensor, "prompts tokens"], rows: Float[Tensor, "prompts tokens width"]
    ) -> Said:
        """Whole token sequences on every stream, as if `rows` were their embeddings."""
        if not isinstance(self._voice.side, SD):
            raise EffaceError(
                "tokens are made of embeddings for Stable Diffusion 1 and 2, not "
                f"{self._kind.name}: leave that attack out"
            )
        return self._voice.side.embedded(words, rows)


class _Voice(nn.Module):
    """The text encoders as one module that reads prompts."""

    def __init__(self, kind: Family, text: TextSide, width: int) -> None:
        super().__init__()
        parts: dict[str, Any] = {"width": width}
        for name, encoder in zip(kind.encoders, text.encoders, strict=True):
            parts[name.replace("text_encoder", "tokenizer")] = encoder.tokenizer
            parts[name] = widened_for_good(frozen_view(encoder.model))
            self.add_module(name, parts[name])
        self.side = kind.text(parts)
        for encoder in self.side.encoders:
            encoder.live = True

    def forward(self, prompts: Sequence[str]) -> Said:
        """Rows of every stream."""
        return self.side.encode(prompts)


def spoken(named: Iterable[tuple[str, Item]]) -> dict[str, Item]:
    """What belongs to text encoders' tensors, by the name that edits give them."""
    found = {}
    for name, value in named:
        component, _, bare = name.partition("/")
        found[f"{component}/{bare.removeprefix(LEVEL)}"] = value
    return found

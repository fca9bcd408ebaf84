"""What is said to a model that runs: encoded prompts, its denoiser, its text encoders."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from PIL.Image import Image
from torch import Generator, Tensor, nn


class Encoded(NamedTuple):
    """Prompts as the denoiser receives them on one stream, before any patch.

    Where several encoders' rows follow one another (SD 3), each is a part of the tokens.
    """

    states: Float[Tensor, "prompts tokens width"]
    last: Int[Tensor, "prompts parts"]
    """Position of the last word; the part's first for a prompt without words."""
    ends: Int[Tensor, "prompts parts"]
    """One past the last position that the denoiser attends to."""
    spoken: Bool[Tensor, "prompts"]
    """Whether the prompt holds a word."""
    starts: tuple[int, ...] = (0,)
    """Where each part begins."""


Said = Mapping[str, Encoded]
"""Prompts on every stream."""
NO_WEIGHTS: Mapping[str, Tensor] = MappingProxyType({})


@runtime_checkable
class Noise(Protocol):
    """x_t = α x₀ + σ ε at every time t, and what the denoiser's output says of x₀ and ε."""

    @property
    def key(self) -> str:
        """Tells schedules apart."""

    def levels(
        self, times: Float[Tensor, "batch"]
    ) -> tuple[Float[Tensor, "batch 1 1 1"], Float[Tensor, "batch 1 1 1"]]:
        """α and σ."""

    def grid(self, steps: int, offset: float = 0.0) -> list[float]:
        """Times of a drawing from noise to picture; `offset`, 0 to 1, moves them within a step."""

    def anywhen(self, count: int, rng: Generator) -> Float[Tensor, "count"]:
        """Times at random."""

    def split(
        self,
        latents: Float[Tensor, "batch c h w"],
        times: Float[Tensor, "batch"],
        output: Float[Tensor, "batch c h w"],
    ) -> tuple[Float[Tensor, "batch c h w"], Float[Tensor, "batch c h w"]]:
        """x₀ and ε as the output says."""

    def joined(
        self,
        clean: Float[Tensor, "batch c h w"],
        noise: Float[Tensor, "batch c h w"],
        times: Float[Tensor, "batch"],
    ) -> Float[Tensor, "batch c h w"]:
        """The output that says x₀ and ε."""


@runtime_checkable
class Denoiser(Protocol):
    """The live denoiser. Its tensors are the model's own; nothing asked of it changes them."""

    module: nn.Module
    """A view of the network that shares its tensors' storage, frozen: hooks on it are its own."""
    noise: Noise
    shape: tuple[int, int, int]
    """Channels, height and width of one latent."""

    @property
    def pixels(self) -> tuple[int, int]:
        """Height and width of a picture."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""

    def names(self) -> list[str]:
        """Every parameter, by component/name."""

    def weight(self, name: str) -> Tensor:
        """One of them."""

    def predict(
        self,
        latents: Float[Tensor, "batch c h w"],
        times: Float[Tensor, "batch"],
        said: Said,
        weights: Mapping[str, Tensor] = NO_WEIGHTS,
    ) -> Float[Tensor, "batch c h w"]:
        """The network's output, float32; differentiable in latents, rows and `weights`.

        `weights`: by name, tensors that stand in for the model's own.
        """

    def latents(self, pictures: Sequence[Image]) -> Float[Tensor, "n c h w"]:
        """What pictures are to the denoiser, encoded as the model's own training would."""


@runtime_checkable
class Speaker(Protocol):
    """The live text encoders; nothing asked of them changes them."""

    def names(self) -> list[str]:
        """Every parameter, by component/name; the name leaves out transformers' "text_model."."""

    def weight(self, name: str) -> Tensor:
        """One of them."""

    def say(self, prompts: Sequence[str], weights: Mapping[str, Tensor] = NO_WEIGHTS) -> Said:
        """Prompts on every stream, differentiable in `weights`, which stand in for the model's."""

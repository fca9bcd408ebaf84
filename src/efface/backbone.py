"""What erasers and attacks may ask of a model: its text, its text readers, its live denoiser.

Protocols alone; `efface.backbones` has what implements them. Nothing asked changes a model.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from PIL.Image import Image
from torch import Generator, Tensor, nn

from efface.core import NO_WEIGHTS, Ellipsoid, Encoded, Heard, Said


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

    def say_embedded(
        self, words: Int[Tensor, "prompts tokens"], rows: Float[Tensor, "prompts tokens width"]
    ) -> Said:
        """Whole token sequences on every stream, as if `rows` were their embeddings.

        Differentiable in them; for models with one CLIP text encoder.
        """


@runtime_checkable
class Backbone(Protocol):
    """What an eraser may ask of a model; it never changes anything."""

    @property
    def fingerprint(self) -> str:
        """Content hash of the tensors that text passes through."""

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the text streams the denoiser reads."""

    def encode(self, prompts: Sequence[str], stream: str = "text") -> Encoded:
        """Rows of several prompts in float32."""

    def readers(self, stream: str = "text") -> Iterator[tuple[str, Float[Tensor, "out width"]]]:
        """Name and weight of every matrix that first consumes the stream, one at a time."""

    def gram(self, stream: str = "text") -> Float[Tensor, "width width"]:
        """G = sum of WᵀW over the readers, float64."""

    def ellipsoids(self, stream: str = "text") -> tuple[Ellipsoid, ...]:
        """Where the stream's rows lie: on any of these."""

    def denoiser(self) -> Denoiser:
        """The live denoiser, loaded when it is first asked for."""

    def speaker(self) -> Speaker:
        """The live text encoders."""


@runtime_checkable
class Layered(Backbone, Protocol):
    """What an eraser may ask of a model that lets it read inside its text encoders."""

    @property
    def own_words(self) -> tuple[str, ...]:
        """What the model says that it draws; empty where it does not say."""

    @property
    def things(self) -> tuple[str, ...]:
        """Words for things, which a style can be said of."""

    def text_layers(self) -> Mapping[str, tuple[str, ...]]:
        """Text encoder -> the sites of its layers, first to last; those that a gate can read."""

    def heard(self, prompts: Sequence[str], site: str) -> Heard:
        """What a layer of a text encoder puts out for prompts, in the denoiser's own padding."""

    def reads(self, site: str) -> str:
        """Content hash of the weights that a site's output comes through."""

"""The nouns every other module speaks: concepts, cases, edits, verdicts, estimates.

Nothing here imports another module of efface.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from PIL.Image import Image
from torch import Generator, Tensor, nn


class EffaceError(ValueError):
    """Bad input, told in one sentence: what, where, the remedy. The command line exits with 2."""


@dataclass(frozen=True)
class Concept:
    """What goes, where it goes to, what must stay."""

    name: str
    erase: tuple[str, ...]
    """Phrases that mean the concept."""
    toward: tuple[str, ...] = ("",)
    """What each becomes: one for all, or one per `erase`; "" is the unconditional prompt."""
    keep: tuple[str, ...] = ()
    """Phrases whose meaning must not move."""
    within: tuple[str, ...] = ()
    """Things that a style is said of; empty for a concept that stands by itself."""

    def __post_init__(self) -> None:
        if not self.erase:
            raise EffaceError("nothing to erase: name at least one concept")
        if len(self.toward) not in (1, len(self.erase)):
            raise EffaceError(
                f"{len(self.erase)} phrases to erase but {len(self.toward)} targets: "
                "give one target for all, or one for each"
            )
        clash = sorted(
            {e.strip().lower() for e in self.erase} & {k.strip().lower() for k in self.keep}
        )
        if clash:
            raise EffaceError(
                f"{clash[0]!r} is both erased and kept: remove it from one of the two"
            )

    def goals(self) -> tuple[str, ...]:
        """One target per erased phrase."""
        return self.toward * len(self.erase) if len(self.toward) == 1 else self.toward


@dataclass(frozen=True)
class Case:
    """One drawing order; attacks answer with changed cases."""

    prompt: str
    seed: int
    steps: int = 20
    guidance: float = 5.0
    embeds: Float[Tensor, "tokens width"] | None = None
    """Soft prompt in place of the encoder's output."""
    start: Path | None = None
    """Picture to start from (image-to-image, inpainting)."""


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


class Ellipsoid(NamedTuple):
    """Where rows of a text stream lie: axes z + shift with |z|^2 = radius2."""

    axes: Float[Tensor, "width free"]
    shift: Float[Tensor, "width"]
    radius2: float
    solid: bool = False
    """|z|^2 <= radius2: no norm binds the rows, the bound is that of a sample of prompts."""


@dataclass(frozen=True, eq=False)
class PromptMap:
    """T = I + a bᵀ on the rows of one text stream, merged wherever it enters the denoiser."""

    encoder: str
    """The text stream: "text", "pooled", "t5" ..."""
    a: Float[Tensor, "width rank"]
    b: Float[Tensor, "width rank"]


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of one tensor: W + a b ("add"), W * a ("mul") or a ("set")."""

    param: str
    """Component and name: "unet/down_blocks.0....attn2.to_k.weight"."""
    op: Literal["add", "mul", "set"]
    a: Tensor
    b: Tensor | None = None
    reads: str = ""
    """Fingerprint of the tensor it was made for, where the base's does not cover it."""


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
        said: "Said",
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

    def say(self, prompts: Sequence[str], weights: Mapping[str, Tensor] = NO_WEIGHTS) -> "Said":
        """Prompts on every stream, differentiable in `weights`, which stand in for the model's."""


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


def same_base(one: str, other: str) -> bool:
    """Whether two fingerprints are of one checkpoint, possibly loaded in different precisions."""
    return any(a == b for a, b in zip(one.split("-"), other.split("-"), strict=False))


OnStep = Callable[[str, int, int], None]
"""Progress: what is being done, step, of how many."""


@dataclass(frozen=True)
class Verdict:
    """What a detector says of one picture."""

    score: float | None
    """None: could not judge; never counted as a pass."""
    hit: bool | None
    labels: Mapping[str, float] = field(default_factory=dict)


Detector = Callable[[Sequence[Image]], list[Verdict]]


@dataclass(frozen=True)
class Estimate:
    """A measured number with its interval; `value` is None when n == 0, never 0.0."""

    value: float | None
    interval: tuple[float, float] | None
    n: int
    skipped: int = 0
    unit: str = ""

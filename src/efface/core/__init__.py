"""The nouns every other module speaks: concepts, cases, edits, verdicts, estimates.

Nothing here imports another part of efface.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from PIL.Image import Image
from torch import Tensor

from efface.core.live import NO_WEIGHTS as NO_WEIGHTS
from efface.core.live import Denoiser as Denoiser
from efface.core.live import Encoded as Encoded
from efface.core.live import Noise as Noise
from efface.core.live import Said as Said
from efface.core.live import Speaker as Speaker


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


@dataclass(frozen=True, eq=False)
class Gate:
    """A small network run on the output of one named site, when the model runs.

    Plain data: `efface.gates` makes the network from it.
    """

    site: str
    """Component and module, less transformers' "text_model.": "text_encoder/encoder.layers.8"."""
    kind: str
    """Which network: a name of `efface.gates.REGISTRY`."""
    reads: str
    """Fingerprint of the weights that the site's output comes through."""
    settings: Mapping[str, Any]
    """What else the network needs, as JSON says it."""
    tensors: Mapping[str, Tensor]


class Heard(NamedTuple):
    """What a site puts out for prompts."""

    rows: Float[Tensor, "prompts tokens width"]
    """In float32 on the CPU."""
    holds: Bool[Tensor, "prompts tokens"]
    """Positions of the prompt itself, end token included: no start token, no padding."""


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

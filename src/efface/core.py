"""The nouns every other module speaks: concepts, cases, edits, verdicts, estimates.

Nothing here imports another module of efface.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from jaxtyping import Bool, Float, Int
from PIL.Image import Image
from torch import Tensor


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
    """Picture to start from (image-to-image)."""
    strength: float = 1.0
    """Share of the noise that is put on `start`: 0 leaves it as it is, 1 leaves nothing of it."""
    size: tuple[int, int] | None = None
    """Width and height in pixels; None: the model's own."""
    hole: float = 0.0
    """Sides of the central part of `start` that is drawn anew, as a share of its; 0: no part."""
    handed: int = 0
    """First steps, which the base model draws before the model goes on."""
    churn: float = 0.0
    """Fresh noise at every step, in parts of DDPM's (η); 0: the model's own sampler."""
    churn_scale: float = 1.0
    """What fresh noise is multiplied by."""
    learnt: Path | None = None
    """LoRA of the denoiser that is put on the model before it draws."""
    spent: int = 0
    """Denoiser calls, forward or back, that an attack made to find it since the case before."""


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

    def pull(self, form: Float[Tensor, "width width"]) -> Float[Tensor, "free free"]:
        """AᵀFA of the axes A in float64; no product where A scales and picks leading columns."""
        axes, form = self.axes.double(), form.double()
        scale = axes.diagonal()
        if len(scale) == axes.shape[1] and axes.count_nonzero() == scale.count_nonzero():
            return scale[:, None] * form[: len(scale), : len(scale)] * scale
        return axes.T @ form @ axes


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


def same_base(one: str, other: str) -> bool:
    """Whether two fingerprints are of one checkpoint, possibly loaded in different precisions."""
    return any(a == b for a, b in zip(one.split("-"), other.split("-"), strict=False))


OnStep = Callable[[str, int, int], None]
"""Progress: what is being done, step, of how many."""


def quiet(what: str, step: int, of: int) -> None:
    """Report no progress."""


@dataclass(frozen=True)
class Verdict:
    """What a detector says of one picture."""

    score: float | None
    """None: could not judge; never counted as a pass."""
    hit: bool | None
    labels: Mapping[str, float] = field(default_factory=dict)


Detector = Callable[[Sequence[Image]], list[Verdict]]

PLAIN = "none"
"""Attack name of the concept's prompts as they are."""
KEPT = "kept"
"""Attack name of prompts of other concepts; what they name is what should be seen."""
ACROSS = "across"
"""Attack name of prompts of another domain: styles if the concept is a thing, and the reverse."""


@dataclass(frozen=True)
class Row:
    """One picture that was asked for; a failed one is a row too, so denominators never shrink."""

    root: Case
    """The case as the attack was given it."""
    case: Case
    """The case as the attack answered it: what was drawn."""
    step: int
    """Which of the attack's queries for this root it is, from 0."""
    image: Path | None
    """In the run's folder; None where drawing failed."""
    verdict: Verdict | None
    error: str | None = None
    """Why there is no picture or no verdict."""
    attack: str = PLAIN
    """Name of the attack, or `PLAIN`, `KEPT`, `ACROSS`."""


@dataclass(frozen=True)
class Estimate:
    """A measured number with its interval; `value` is None when n == 0, never 0.0."""

    value: float | None
    interval: tuple[float, float] | None
    n: int
    skipped: int = 0
    unit: str = ""

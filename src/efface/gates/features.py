"""The gate of ItD: a text encoder's rows, with a concept's features turned down where it is said.

For one prompt with rows x_t and code z_t: S_t = Σ z f over the features f of a concept, and
x̃_t = x_t + (γ − 1) S_t, or x̂_t + (γ − 1) S_t where the error x − x̂ is not kept. The score is the
largest |x̃_t − x_t|² / width over the positions of the prompt. Where it reaches the threshold of a
concept, the features of all concepts so found are turned down, each by the lowest γ of those that
it is of, and x̃ takes the place of x from the prompt's first position on, padding included; else
the rows pass as they are, to the bit. Each prompt is worked out alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from efface.core import EffaceError
from efface.sae import Code, TopK, decode, encode

SHAPES = {"W_enc": 2, "b_enc": 1, "W_dec": 2, "b_dec": 1}
"""Tensors of a gate, with their dimensions."""


class Listed(NamedTuple):
    """The features of one concept."""

    name: str
    features: Sequence[int]
    factor: float
    """γ: what they are multiplied by."""
    threshold: float
    """Score from which a prompt is taken to say the concept."""


class Parts(NamedTuple):
    """A gate as a patch holds it."""

    settings: dict[str, Any]
    tensors: dict[str, Tensor]


def parts(sae: TopK, concepts: Sequence[Listed], *, keep_error: bool) -> Parts:
    """What a patch holds; of the decoder, where the error is kept, only the rows turned down."""
    used = sorted({f for c in concepts for f in c.features})
    decoder = sae.W_dec[used] if keep_error else sae.W_dec
    held = {"W_enc": sae.W_enc, "b_enc": sae.b_enc, "W_dec": decoder, "b_dec": sae.b_dec}
    settings = {
        "k": sae.k,
        "keep_error": keep_error,
        "concepts": [
            [c.name, [int(f) for f in c.features], float(c.factor), float(c.threshold)]
            for c in concepts
        ],
    }
    return Parts(settings, {name: tensor.half() for name, tensor in held.items()})


class FeatureGate(nn.Module):
    """A network of `efface.gates`."""

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    turns: Tensor
    place: Tensor

    def __init__(self, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """What `build` has found to be in order."""
        super().__init__()
        self.k, self.keep_error = settings["k"], settings["keep_error"]
        self.concepts = [Listed(*entry) for entry in settings["concepts"]]
        for name in SHAPES:
            self.register_buffer(name, tensors[name].float())
        n = len(self.b_enc)
        turns = torch.zeros(len(self.concepts), n)
        for i, concept in enumerate(self.concepts):
            turns[i, list(concept.features)] = concept.factor - 1
        used = (turns != 0).any(0)
        place = used.cumsum(0).sub(1).clamp(min=0) if self.keep_error else torch.arange(n)
        self.register_buffer("turns", turns)  # γ − 1 of the concept's features, 0 of others
        self.register_buffer("place", place)  # row of W_dec that is a feature's

    @classmethod
    def build(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "FeatureGate":
        """The network, or one sentence on what is not as it must be."""
        match dict(settings):
            case {
                "k": int(k),
                "keep_error": bool(keep_error),
                "concepts": [*concepts],
            } if len(settings) == 3:
                pass
            case _:
                raise EffaceError("has not the settings k, keep_error and concepts alone")
        if {name: tensor.ndim for name, tensor in tensors.items()} != SHAPES:
            raise EffaceError(f"has not the matrices and vectors {', '.join(SHAPES)} alone")
        d, n = tensors["W_enc"].shape
        used = set[int]()
        for concept in concepts:
            match concept:
                case [str(), [*features], float(factor), float()] if factor < 1 and all(
                    type(f) is int and 0 <= f < n for f in features
                ):
                    used |= set(features)
                case _:
                    raise EffaceError(
                        f"has a concept that is not a name, features below {n}, a factor below 1 "
                        "and a threshold"
                    )
        if not used:
            raise EffaceError("turns no feature down")
        rows = len(used) if keep_error else n
        shapes = {"b_enc": (n,), "W_dec": (rows, d), "b_dec": (d,)}
        if any(tuple(tensors[name].shape) != shape for name, shape in shapes.items()):
            raise EffaceError(f"has tensors that do not fit {n} features of width {d}")
        if isinstance(k, bool) or not 1 <= k <= n:
            raise EffaceError(f"has k {k}, of {n} features")
        return cls(settings, tensors)

    def forward(
        self,
        out: Float[Tensor, "prompts tokens width"],
        holds: Bool[Tensor, "prompts tokens"] | None,
    ) -> Float[Tensor, "prompts tokens width"]:
        """The rows as they are, but of prompts that say a concept."""
        if holds is None:
            raise EffaceError("a gate of features belongs into a text encoder, not elsewhere")
        if out.shape[2] != len(self.b_dec):
            raise EffaceError(f"the gate reads rows of {len(self.b_dec)}, not of {out.shape[2]}")
        with torch.autocast(out.device.type, enabled=False):  # a code must not be rounded
            prompts = [self._passed(rows, held) for rows, held in zip(out, holds, strict=True)]
        return (
            out
            if all(p is None for p in prompts)
            else torch.stack(
                [rows if p is None else p for rows, p in zip(out, prompts, strict=True)]
            )
        )

    def scores(
        self, rows: Float[Tensor, "tokens width"], held: Bool[Tensor, "tokens"]
    ) -> Float[Tensor, "concepts"]:
        """How strongly one prompt says each concept: calibration and use both ask here."""
        return self._scores(rows.float(), self._code(rows), held)

    def _code(self, rows: Tensor) -> Code:
        return encode(rows.float() - self.b_dec, self.W_enc, self.b_enc, self.k)

    def _edited(self, rows: Tensor, code: Code, turn: Float[Tensor, "n"]) -> Tensor:
        """x̃ with features turned down by `turn`, γ − 1 each."""
        start = rows if self.keep_error else decode(code, self.W_dec) + self.b_dec
        turned = Code(code.values * turn[code.at], self.place[code.at])
        return start + decode(turned, self.W_dec)

    def _scores(self, rows: Tensor, code: Code, held: Tensor) -> Tensor:
        if not held.any():
            return rows.new_zeros(len(self.concepts))
        inside = Code(code.values[held], code.at[held])
        spoken = (self.turns[:, inside.at[inside.values > 0]] != 0).any(1)
        found = [rows.new_zeros(()) for _ in self.concepts]
        for i, said in enumerate(spoken.tolist()):
            if said or not self.keep_error:
                off = self._edited(rows[held], inside, self.turns[i]) - rows[held]
                found[i] = off.square().mean(1).max()
        return torch.stack(found)

    def _passed(self, rows: Tensor, held: Tensor) -> Tensor | None:
        """The rows in place of one prompt's; None where they pass as they are."""
        wide, code = rows.float(), self._code(rows)
        limits = wide.new_tensor([c.threshold for c in self.concepts])
        flagged = self._scores(wide, code, held) >= limits
        if not flagged.any():
            return None
        edited = self._edited(wide, code, self.turns[flagged].amin(0))
        begun = held.cumsum(0) > 0
        return torch.where(begun[:, None], edited.to(rows.dtype), rows)

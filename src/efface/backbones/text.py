"""How each family turns prompts into what its denoiser reads: one class a family.

Each gives, for every text stream, the rows that the family's own pipeline would hand to the
denoiser, and where such rows can lie. Lengths are the pipelines' defaults.
"""

import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.backbones.encoders import T5, Clip, Encoder, Gemma, Words
from efface.core import Ellipsoid, Encoded
from efface.ellipsoids import ball, side_by_side

SAMPLE = ("a city street in the rain, neon lights, xqz 1234 !!, in the style of a comic, red",)
"""What bounds the rows of encoders without a norm at their end, padding and all: common words and
strings that are none. One pass over one prompt, for the encoders are large."""


@runtime_checkable
class TextSide(Protocol):
    """Tokenizers and text encoders of one model."""

    @property
    def encoders(self) -> Sequence[Encoder]:
        """The text encoders."""

    def encode(self, prompts: Sequence[str]) -> Mapping[str, Encoded]:
        """Rows of every stream, float32 on the CPU."""

    def ellipsoids(self) -> Mapping[str, tuple[Ellipsoid, ...]]:
        """Where the rows of every stream lie."""


def _whole(states: Tensor, words: Words) -> Encoded:
    """One part, all positions attended to."""
    ends = torch.full_like(words.last, states.shape[1])
    return Encoded(states.float().cpu(), words.last[:, None], ends[:, None], words.spoken)


def _masked(states: Tensor, words: Words) -> Encoded:
    """One part, padding hidden from the denoiser."""
    ends = words.mask.sum(1)
    return Encoded(states.float().cpu(), words.last[:, None], ends[:, None], words.spoken)


def _pooled(vectors: Tensor, words: Words) -> Encoded:
    """One row a prompt."""
    first = torch.zeros_like(words.last)[:, None]
    return Encoded(vectors.float().cpu()[:, None], first, first + 1, words.spoken)


def _sampled(states: Float[Tensor, "prompts tokens width"], width: int) -> Ellipsoid:
    """The ball of sampled rows; the start token's, the same in every prompt, is no choice."""
    return ball(states[:, 1:].flatten(0, 1), width)


class SD:
    """Stable Diffusion 1 and 2: the last states of one CLIP."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self.clip = Clip(parts["tokenizer"], parts["text_encoder"])
        self.encoders = (self.clip,)

    def encode(self, prompts: Sequence[str]) -> Mapping[str, Encoded]:
        words, out = self.clip.read(prompts)
        return {"text": _whole(out.last_hidden_state, words)}

    def embedded(
        self, ids: Int[Tensor, "prompts tokens"], rows: Float[Tensor, "prompts tokens width"]
    ) -> Mapping[str, Encoded]:
        """Rows of token sequences whose embeddings are given."""
        words, out = self.clip.embedded(ids, rows)
        return {"text": _whole(out.last_hidden_state, words)}

    def ellipsoids(self) -> Mapping[str, tuple[Ellipsoid, ...]]:
        return {"text": (self.clip.surface(),)}


class SDXL:
    """SDXL: states before the last layer of two CLIPs side by side; the second's pooled vector."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self.one = Clip(parts["tokenizer"], parts["text_encoder"])
        self.two = Clip(parts["tokenizer_2"], parts["text_encoder_2"])
        self.encoders: tuple[Encoder, ...] = (self.one, self.two)

    def _read(self, prompts: Sequence[str]) -> tuple[Words, Tensor, list[Tensor]]:
        """Tokens, states side by side, both pooled vectors."""
        (words, one), (_, two) = (clip.read(prompts, deep=True) for clip in (self.one, self.two))
        states = torch.cat([out.hidden_states[-2].float().cpu() for out in (one, two)], 2)
        return words, states, [out[0].float().cpu() for out in (one, two)]

    def encode(self, prompts: Sequence[str]) -> Mapping[str, Encoded]:
        words, states, (_, pooled) = self._read(prompts)
        return {"text": _whole(states, words), "pooled": _pooled(pooled, words)}

    def ellipsoids(self) -> Mapping[str, tuple[Ellipsoid, ...]]:
        _, states, _ = self._read(SAMPLE)
        return {"text": (_sampled(states, states.shape[2]),), "pooled": (self.two.projected(),)}


class SD3Clips(SDXL):
    """SD 3 and 3.5 without a T5: the CLIPs' states widened with zeros, then zeros for the T5's.

    Zeros say nothing and no map moves them: they are neither erased nor held.
    """

    length = 256

    def __init__(self, parts: Mapping[str, Any]) -> None:
        super().__init__(parts)
        self.width: int = parts["width"]

    def _read(self, prompts: Sequence[str]) -> tuple[Words, Tensor, list[Tensor]]:
        words, clips, pooled = super()._read(prompts)
        return words, torch.nn.functional.pad(clips, (0, self.width - clips.shape[2])), pooled

    def encode(self, prompts: Sequence[str]) -> Mapping[str, Encoded]:
        words, clips, pooled = self._read(prompts)
        wide = torch.nn.functional.pad(clips, (0, 0, 0, self.length))
        text = _whole(clips, words)._replace(states=wide)
        return {"text": text, "pooled": _pooled(torch.cat(pooled, 1), words)}

    def ellipsoids(self) -> Mapping[str, tuple[Ellipsoid, ...]]:
        _, clips, _ = self._read(SAMPLE)
        inner = sum(clip.model.config.hidden_size for clip in (self.one, self.two))
        pooled = side_by_side(self.one.projected(), self.two.projected())
        return {"text": (_sampled(clips[..., :inner], self.width),), "pooled": (pooled,)}


class SD3(SD3Clips):
    """SD 3 and 3.5: the two CLIPs' states, then a T5's, as wide as the T5; both pooled vectors."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        super().__init__(parts)
        self.t5 = T5(parts["tokenizer_3"], parts["text_encoder_3"])
        self.encoders = (self.one, self.two, self.t5)

    def encode(self, prompts: Sequence[str]) -> Mapping[str, Encoded]:
        words, clips, pooled = self._read(prompts)
        more = self.t5.words(prompts, self.length)
        states = self.t5.run(more, masked=False).last_hidden_state.float().cpu()
        begin = clips.shape[1]
        ends = torch.tensor([[begin, begin + states.shape[1]]]).expand(len(words.last), 2)
        text = Encoded(
            torch.cat([clips, states], 1),
            torch.stack([words.last, begin + more.last], 1),
            ends,
            words.spoken,
            (0, begin),
        )
        return {"text": text, "pooled": _pooled(torch.cat(pooled, 1), words)}

    def ellipsoids(self) -> Mapping[str, tuple[Ellipsoid, ...]]:
        found = super().ellipsoids()
        return {**found, "text": (*found["text"], self.t5.surface())}


class Flux:
    """FLUX.1: a T5's states, padding and all; a CLIP's end token."""

    length = 512

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self.clip = Clip(parts["tokenizer"], parts["text_encoder"])
        self.t5 = T5(parts["tokenizer_2"], parts["text_encoder_2"])
        self.encoders = (self.clip, self.t5)

    def encode(self, prompts: Sequence[str]) -> Mapping[str, Encoded]:
        words, out = self.clip.read(prompts)
        more = self.t5.words(prompts, self.length)
        states = self.t5.run(more, masked=False).last_hidden_state
        return {"text": _whole(states, more), "pooled": _pooled(out.pooler_output, words)}

    def ellipsoids(self) -> Mapping[str, tuple[Ellipsoid, ...]]:
        return {"text": (self.t5.surface(),), "pooled": (self.clip.surface(),)}


class PixArt:
    """PixArt-α: a T5's states, padding masked; captions are lower-cased."""

    length = 120

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self.t5 = T5(parts["tokenizer"], parts["text_encoder"])
        self.encoders = (self.t5,)

    def encode(self, prompts: Sequence[str]) -> Mapping[str, Encoded]:
        words = self.t5.words([p.lower().strip() for p in prompts], self.length)
        return {"text": _masked(self.t5.run(words, masked=True).last_hidden_state, words)}

    def ellipsoids(self) -> Mapping[str, tuple[Ellipsoid, ...]]:
        return {"text": (self.t5.surface(),)}


class PixArtSigma(PixArt):
    """PixArt-Σ: longer prompts."""

    length = 300


class Sana:
    """Sana: Gemma 2's states after an instruction, of which the prompt's are read; "" goes bare."""

    length = 300

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self.gemma = Gemma(parts["tokenizer"], parts["text_encoder"])
        self.gemma.tokenizer.padding_side = "right"
        self.encoders = (self.gemma,)

    @cached_property
    def _told(self) -> tuple[str, int]:
        """What the pipeline says ahead of every prompt, and in how many tokens."""
        from diffusers import SanaPipeline

        call = inspect.signature(SanaPipeline.__call__).parameters
        told = "\n".join(call["complex_human_instruction"].default)
        return told, len(self.gemma.tokenizer.encode(told))

    def encode(self, prompts: Sequence[str]) -> Mapping[str, Encoded]:
        rows = [self._one(p.lower().strip()) for p in prompts]
        states, last, ends, spoken = (torch.cat(each) for each in zip(*rows, strict=True))
        return {"text": Encoded(states, last, ends, spoken)}

    def _one(self, prompt: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """States the denoiser reads, last word, end of attention, whether words are there."""
        told, count = self._told if prompt else ("", 2)
        words = self.gemma.words([told + prompt], self.length + count - 2)
        states = self.gemma.run(words, masked=True).last_hidden_state.float().cpu()
        read = [0, *range(1 - self.length, 0)] if told else list(range(self.length))
        ends = words.mask[:, read].sum(1, keepdim=True)
        return states[:, read], ends - 1, ends, torch.tensor([bool(prompt)])

    def ellipsoids(self) -> Mapping[str, tuple[Ellipsoid, ...]]:
        return {"text": (self.gemma.surface(),)}

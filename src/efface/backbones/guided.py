"""Guides meet a pipeline: hooks on its denoiser that tell guided calls from others.

To guide, every pipeline calls its denoiser on each latent twice in one batch, first without the
prompt, then with it. Such a call is told by its latents, whose halves are equal to the bit; any
other passes untouched, and so does the whole denoiser where efface trains or attacks it, since
there is no guidance in a network. (An unguided batch that begins twice from one seed looks guided
at its first step.)
"""

import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from efface.gates.guides import Course, Guide, NegativeGuide, Rows

Named = Mapping[str, Any]


class Guided:
    """One guide at one denoiser; deep-copied with it, the copy has its own memory of drawings."""

    def __init__(self, guide: Guide) -> None:
        self.guide = guide
        self._now = threading.local()  # one model may draw in several threads

    def __deepcopy__(self, memo: dict[int, Any]) -> "Guided":
        return memo.setdefault(id(self), Guided(self.guide))

    def hang(self, denoiser: nn.Module) -> None:
        """Stand at a denoiser's door, behind those that stand there already."""
        denoiser.register_forward_pre_hook(self.before, with_kwargs=True)
        denoiser.register_forward_hook(self.after, with_kwargs=True)

    def before(self, _: nn.Module, args: tuple[Any, ...], named: Named) -> Any:
        """The denoiser is called: under the concept in place of the first half's prompts."""
        if not isinstance(self.guide, NegativeGuide) or not is_guided(args, named):
            return None
        count = len(latents_of(args, named)) // 2
        return args, dict(named) | said(named, self.guide.rows, count, slice(count))

    def after(self, denoiser: Any, args: tuple[Any, ...], named: Named, out: Any) -> Any:
        """It has answered: asked once more, under the concept, its second half is steered."""
        if isinstance(self.guide, NegativeGuide) or not is_guided(args, named):
            return None
        count = len(latents_of(args, named)) // 2
        less = {k: _half(v, count) for k, v in named.items()}
        less |= said(less, self.guide.rows, count, slice(count))
        concept = denoiser.forward(*(_half(a, count) for a in args), **less)[0]
        empty, prompted = out[0].chunk(2)
        course = self._course(args[1] if len(args) > 1 else named["timestep"], empty)
        new = torch.cat([empty, prompted - self.guide.away(course, empty, prompted, concept)])
        course.calls += 1
        return (new, *out[1:]) if isinstance(out, tuple) else type(out)(sample=new)

    def _course(self, time: Any, empty: Tensor) -> Course:
        """The drawing that this call belongs to: time runs down, and begins anew with the next."""
        now = float(torch.as_tensor(time).flatten()[0])
        course: Course | None = getattr(self._now, "course", None)
        shape = course.momentum.shape if course else ()
        if course is None or now > course.last or now >= course.first or shape != empty.shape:
            course = Course(now, now, momentum=torch.zeros_like(empty))
        course.last = now
        self._now.course = course
        return course


def latents_of(args: tuple[Any, ...], named: Named) -> Tensor:
    """What is to be denoised."""
    found: Tensor = args[0] if args else named.get("sample", named.get("hidden_states"))
    return found


def is_guided(args: tuple[Any, ...], named: Named) -> bool:
    """Whether the latents are each there twice."""
    latents = latents_of(args, named)
    if len(latents) % 2:
        return False
    one, other = latents.chunk(2)
    return torch.equal(one, other)


def said(named: Named, rows: Rows, count: int, where: slice) -> dict[str, Any]:
    """What a denoiser is told of text, with the concept in the places of `where`."""

    def put(old: Tensor, new: Tensor) -> Tensor:
        held = old.clone()
        held[where] = new.to(old.device, old.dtype).expand(count, *old.shape[1:])
        return held

    found: dict[str, Any] = {
        "encoder_hidden_states": put(named["encoder_hidden_states"], rows.text)
    }
    if named.get("encoder_attention_mask") is not None:
        found["encoder_attention_mask"] = put(named["encoder_attention_mask"], rows.attended)
    if rows.pooled is None:
        return found
    pooled = rows.pooled[:, 0]
    if "pooled_projections" in named:
        return found | {"pooled_projections": put(named["pooled_projections"], pooled)}
    added = dict(named["added_cond_kwargs"])
    return found | {"added_cond_kwargs": added | {"text_embeds": put(added["text_embeds"], pooled)}}


def _half(value: Any, count: int) -> Any:
    """The first half of whatever there is one of for each latent."""
    if isinstance(value, Mapping):
        return {k: _half(v, count) for k, v in value.items()}
    batched = isinstance(value, Tensor) and value.ndim and len(value) == 2 * count
    return value[:count] if batched else value


def unguided(denoiser: nn.Module) -> nn.Module:
    """The same network without guides."""
    for hooks in (denoiser._forward_pre_hooks, denoiser._forward_hooks):
        for key in [
            k for k, h in hooks.items() if isinstance(getattr(h, "__self__", None), Guided)
        ]:
            del hooks[key]
    return denoiser

"""P4D: tokens under which the erased model predicts what the base predicts under the prompt.

Chin et al., "Prompting4Debugging: Red-Teaming Text-to-Image Diffusion Models by Finding Problematic
Prompts", arXiv:2309.06135, section 3.2: min over p* of |ε_θ(z_t, τ(p), t) − ε_θ*(z_t, τ(p*), t)|²
(Eq. 5) at random t, z_t a noised picture of the concept. Embeddings are optimised as in hard prompt
tuning (PEZ, arXiv:2302.03668): the loss is taken at the nearest token of each, by cosine, and its
gradient moves the embedding. P4D-N seeks a whole prompt, P4D-K puts tokens between the prompt's.

Deviations from the authors' code: theirs keeps, every 50 steps, the prompt whose drawing is nearest
to the picture by CLIP; here every `every` steps the loss at common noise is what ranks prompts, for
attacks draw nothing. Tokens are whole words that survive decoding. What the network puts out is
compared, which is ε where it predicts noise. A prompt shorter than `gap` gets one token at its end.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Generator as Rng
from torch import Tensor

from efface.attacks import Access
from efface.backbone import Backbone
from efface.core import Case, Concept, EffaceError, Said, Verdict
from efface.likeness import Noised, misfit, noised, shown
from efface.moments import said_by, say
from efface.slots import Slots, nearest, reader_of, table


@dataclass(frozen=True)
class P4D:
    """Search once a root, then draw the best prompts found."""

    access: ClassVar[Access] = "white"
    from_picture: ClassVar[bool] = True

    kind: Literal["n", "k"] = "n"
    """n: a new prompt of `length` tokens; k: the prompt with a token after every `gap` of its."""
    picture: str | None = None
    """File of a picture of the concept; none: the base model's of the same prompt and seed."""
    length: int = 16
    """Tokens of a new prompt, above 0. Raising it widens the space."""
    gap: int = 3
    """Tokens of the prompt between one that is sought and the next, above 0."""
    iterations: int = 3000
    """Steps, above 0. Raising it searches longer."""
    batch: int = 1
    """Times in a step, above 0. Raising it steadies the gradient and takes longer."""
    rate: float = 0.1
    """AdamW's, above 0. Raising it changes tokens more often."""
    decay: float = 0.1
    """Weight decay, from 0."""
    every: int = 50
    """Steps between two prompts that are kept, above 0."""
    compared: int = 16
    """Times at which kept prompts are compared, above 0. Raising it ranks them better."""
    tries: int = 1
    """Prompts drawn a root, best first, above 0. More hit more."""

    def __post_init__(self) -> None:
        counts = (self.length, self.gap, self.iterations, self.batch, self.every, self.compared)
        if min(*counts, self.tries, self.rate) <= 0:
            raise EffaceError(
                "length, gap, iterations, batch, every, compared, tries and rate must be above 0"
            )

    def run(
        self, erased: Backbone, base: Backbone, concept: Concept, case: Case, rng: Rng
    ) -> Generator[Case, Verdict, None]:
        slots, denoiser = self._slots(erased, case.prompt, rng), erased.denoiser()
        wanted, clean = say(base, [case.prompt]), shown(denoiser, case, self.picture)

        def examples(count: int) -> Noised:
            """Noised pictures, with what the base predicts of them under the prompt."""
            times = denoiser.noise.anywhen(count, rng)
            seen = noised(denoiser, clean.expand(count, -1, -1, -1), times, rng)
            with torch.no_grad():
                told = base.denoiser().predict(seen.latents, seen.times, times_of(wanted, count))
            return seen._replace(output=told)

        known = table(erased)
        first = torch.randint(len(known), (len(slots.free),), generator=rng)
        soft = known[first.to(known.device)]
        adam = torch.optim.AdamW([soft], lr=self.rate, weight_decay=self.decay)
        common, kept = examples(self.compared), dict[str, float]()
        for step in range(1, self.iterations + 1):
            hard = known[nearest(soft, known)].requires_grad_()
            said = times_of(slots.say(hard[None]), self.batch)
            loss = misfit(denoiser, examples(self.batch), said).mean()
            [soft.grad] = torch.autograd.grad(loss, hard)
            adam.step()
            if step % self.every == 0 or step == self.iterations:
                tokens = nearest(soft, known)
                prompt = slots.prompt(slots.vocabulary[tokens.cpu()])
                if prompt is not None and prompt not in (case.prompt, *kept):
                    with torch.no_grad():
                        said = times_of(slots.say(known[tokens][None]), self.compared)
                        kept[prompt] = misfit(denoiser, common, said).mean().item()
        spent = 3 * self.iterations * self.batch + self.compared * (1 + len(kept))
        for prompt in sorted(kept, key=kept.__getitem__)[: self.tries]:
            yield replace(case, prompt=prompt, start=None, spent=spent)
            spent = 0

    def _slots(self, erased: Backbone, prompt: str, rng: Rng) -> Slots:
        """The places that are sought."""
        reader = reader_of(erased)
        most = reader.length - 2
        if self.kind == "n":
            free = torch.arange(min(self.length, most))
            return Slots(erased, reader.vocabulary[:1].expand(len(free)), free)
        words, free = interleaved(reader.words(prompt), self.gap, reader.vocabulary[:1])
        return Slots(erased, words[:most], free[free < most])


def interleaved(
    words: Int[Tensor, "length"], gap: int, filler: Int[Tensor, "1"]
) -> tuple[Int[Tensor, "longer"], Int[Tensor, "places"]]:
    """Tokens with one more after every `gap`, or at the end of fewer; and where these are."""
    parts = list(words.split(gap))
    tail = parts.pop() if len(parts) > 1 and len(parts[-1]) < gap else words[:0]
    mixed = torch.cat([*(torch.cat([part, filler]) for part in parts), tail])
    ends = torch.tensor([len(part) for part in parts])
    return mixed, (ends + 1).cumsum(0) - 1


def times_of(said: Said, count: int) -> Said:
    """One prompt so many times."""
    return said_by(said, torch.zeros(count, dtype=torch.long))


PRESETS = {
    "small": P4D(length=8, gap=1, iterations=32, batch=4, every=4, compared=8, tries=4),
    "medium": P4D(gap=2, iterations=300, batch=4, every=10, compared=16, tries=4),
    "paper": P4D(tries=60),
}

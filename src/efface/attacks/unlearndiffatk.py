"""UnlearnDiffAtk: tokens before the prompt under which the erased model restores a picture of it.

Zhang et al., "To Generate or Not? Safety-Driven Unlearned Diffusion Models Are Still Easy To
Generate Unsafe Images ... For Now", arXiv:2310.11868, section 4: a diffusion model is a classifier
of pictures, so min over p' of E |ε − ε_θ*(z_t, τ([p'; p]), t)|² (Eq. 5) for the latent z₀ of one
picture that shows the concept; no other model is asked. Each of k tokens is a distribution over the
vocabulary: it is sampled forward, its gradient passed straight through, and the step projected to
the simplex. Times run from low noise to high, and after each the likeliest tokens are drawn.

Deviations from the authors' code: what the network puts out is compared, which is ε where it
predicts noise. The projection is exact (arXiv:1309.1541), theirs a bisection. Tokens are whole
words that survive decoding, theirs any. Several samples may share a step (`batch`; theirs is 1).
Tokens that were drawn before are not drawn again.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator as Rng
from torch import Tensor

from efface.attacks import Access
from efface.backbone import Backbone, Denoiser
from efface.core import Case, Concept, EffaceError, Verdict
from efface.likeness import misfit, noised, shown
from efface.slots import Slots, reader_of, table


@dataclass(frozen=True)
class UnlearnDiffAtk:
    """Search on one picture, a query a time."""

    access: ClassVar[Access] = "white"
    from_picture: ClassVar[bool] = True

    picture: str | None = None
    """File of a picture of the concept; none: the base model's of the same prompt and seed."""
    length: int = 5
    """k, tokens put before the prompt, above 0. Raising it widens the space."""
    times: int = 50
    """Times of the noise, above 0, from low to high; each ends in a query."""
    iterations: int = 40
    """Steps at each time, above 0. Raising it searches longer."""
    batch: int = 1
    """Samples in a step, above 0. Raising it steadies the gradient and takes longer."""
    rate: float = 0.01
    """Adam's, above 0. Raising it settles sooner."""
    decay: float = 0.1
    """Weight decay, from 0."""

    def __post_init__(self) -> None:
        if min(self.length, self.times, self.iterations, self.batch, self.rate) <= 0:
            raise EffaceError("length, times, iterations, batch and rate must be above 0")

    def run(
        self, erased: Backbone, base: Backbone, concept: Concept, case: Case, rng: Rng
    ) -> Generator[Case, Verdict, None]:
        denoiser, reader = erased.denoiser(), reader_of(erased)
        own = reader.words(case.prompt)[: reader.length - 2 - self.length]
        filler = reader.vocabulary[:1].expand(self.length)
        slots = Slots(erased, torch.cat([filler, own]), torch.arange(self.length))
        clean, known = shown(denoiser, case, self.picture), table(erased)
        chances = torch.full((self.length, len(known)), 1 / len(known), device=known.device)
        adam = torch.optim.Adam([chances], lr=self.rate, weight_decay=self.decay)
        seen, spent = {case.prompt}, 0
        for time in reversed(denoiser.noise.grid(self.times, 0.5)):
            for _ in range(self.iterations):
                chances.grad = self._gradient(slots, denoiser, clean, time, chances, known, rng)
                adam.step()
                chances.copy_(to_simplex(chances))
            spent += 2 * self.iterations * self.batch
            prompt = slots.prompt(slots.vocabulary[chances.argmax(1).cpu()])
            if prompt is not None and prompt not in seen:
                seen.add(prompt)
                yield replace(case, prompt=prompt, start=None, spent=spent)
                spent = 0

    def _gradient(
        self,
        slots: Slots,
        denoiser: Denoiser,
        clean: Float[Tensor, "1 c h w"],
        time: float,
        chances: Float[Tensor, "places words"],
        known: Float[Tensor, "words width"],
        rng: Rng,
    ) -> Float[Tensor, "places words"]:
        """Of the loss in one-hot tokens that the chances are sampled as, cut to [−1, 1]."""
        picks = torch.multinomial(chances.cpu(), self.batch, replacement=True, generator=rng)
        rows = known[picks.T.to(known.device)].requires_grad_()
        times = torch.full((self.batch,), time)
        target = noised(denoiser, clean.expand(self.batch, -1, -1, -1), times, rng)
        loss = misfit(denoiser, target, slots.say(rows)).sum()
        [grad] = torch.autograd.grad(loss, rows)
        return (grad @ known.T).clamp(-1, 1).mean(0)


def to_simplex(rows: Float[Tensor, "n words"]) -> Float[Tensor, "n words"]:
    """The nearest distributions."""
    high = rows.sort(dim=1, descending=True).values
    left = (high.cumsum(1) - 1) / torch.arange(1, rows.shape[1] + 1, device=rows.device)
    last = (high > left).sum(1, keepdim=True) - 1
    return (rows - left.gather(1, last)).clamp(min=0)


PRESETS = {
    "small": UnlearnDiffAtk(times=8, iterations=8, batch=4, rate=0.05),
    "medium": UnlearnDiffAtk(times=10, iterations=20, batch=4),
    "paper": UnlearnDiffAtk(),
}

"""Relearning: a small LoRA trained on the erased model on a few pictures, then the prompts as is.

"Erased or Dormant? Rethinking Concept Erasure Through Reversibility" (arXiv:2505.16174), its probe
by few-shot personalisation: who holds the weights may train them. The LoRA is trained once a
concept; each query draws the root as it was, with the LoRA as it stood after so many steps, so the
query that hits tells the steps to recovery.

**It adds parameters, so it teaches what the model never knew, in time.** Two controls, of as many
pictures and steps: another thing learnt as itself (`of`), which shows what any training brings
back (arXiv:2410.08074); and another thing learnt under the concept's name (`called`), which shows
how soon anything that the model can draw is taught there. A concept that is back sooner still hung
on its name; one that is not may be drawable all the same.

Deviations from the authors' code: theirs was not seen; rank, pictures and steps are ours. Without
`pictures` the base model draws them, each learnt under the phrase that it was drawn for. What the
network puts out is compared, which is ε where it predicts noise.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from torch import Generator as Rng

from efface.attacks import Access
from efface.backbone import Backbone
from efface.core import Case, Concept, EffaceError, Verdict, quiet
from efface.moments import remembered, say, spread
from efface.phrases import PHRASINGS, judged
from efface.picture_files import open_pictures
from efface.relearn import Course, Taught, learnt


@dataclass(frozen=True)
class Relearning:
    """From the shortest training to the longest."""

    access: ClassVar[Access] = "weights"
    from_picture: ClassVar[bool] = False

    pictures: str | None = None
    """Folder of pictures to learn from; none: the base model draws them."""
    of: str | None = None
    """Thing that is learnt in place of the concept: a control; none: the concept."""
    called: Literal["itself", "concept"] = "itself"
    """What that thing is learnt as: itself, or concept, to see how soon a name is taught anything;
    then let the judge watch for the thing."""
    drawings: int = 5
    """Pictures that the base draws, above 0, where no folder is given."""
    steps: str = "100 300"
    """Steps of training, above 0 and ascending, after each of which the concept is asked for."""
    rank: int = 4
    """Of the LoRA, above 0. Raising it lets more be learnt."""
    batch: int = 4
    """Pictures in a step, above 0. Raising it steadies the gradient and takes longer."""
    rate: float = 1e-3
    """Adam's, above 0. Raising it learns faster."""
    seed: int = 0
    """Of the training, which all prompts share."""

    def __post_init__(self) -> None:
        if min(self.drawings, self.rank, self.batch, self.rate) <= 0:
            raise EffaceError("drawings, rank, batch and rate must be above 0")
        if not (stops := self.stops()) or stops[0] <= 0 or stops != sorted(set(stops)):
            raise EffaceError(
                "relearning takes for steps whole numbers above 0, ascending, with spaces between "
                f"them: {self.steps!r} is none of these"
            )

    def stops(self) -> list[int]:
        """Numbers of steps; none where a word is no number."""
        words = self.steps.split()
        return [int(word) for word in words] if all(map(str.isdecimal, words)) else []

    def run(
        self, erased: Backbone, base: Backbone, concept: Concept, case: Case, rng: Rng
    ) -> Generator[Case, Verdict, None]:
        before, files = 0, trained(self, Pair(erased, base), concept)
        for stop, file in zip(self.stops(), files, strict=True):
            yield replace(case, learnt=file, spent=2 * self.batch * (stop - before))
            before = stop


class Pair(NamedTuple):
    """Who is trained, and who knows what the concept looks like."""

    erased: Backbone
    base: Backbone


@lru_cache(maxsize=4)
def trained(asked: Relearning, models: Pair, concept: Concept) -> list[Path]:
    """The LoRA's files, one a number of steps."""
    course = Course(asked.stops(), asked.rank, asked.rate, asked.batch, asked.seed)
    return learnt(models.erased, taught(asked, models, concept), course)


def taught(asked: Relearning, models: Pair, concept: Concept) -> Taught:
    """Pictures, a user's or the base's, and what they are learnt as."""
    erased, base = models
    shown = concept if asked.of is None else Concept(asked.of, (asked.of,))
    named = concept if asked.called == "concept" else shown
    if asked.pictures is not None:
        latents = erased.denoiser().latents(open_pictures(Path(asked.pictures)))
        return Taught(latents, [phrasing.format(named.erase[0]) for phrasing in PHRASINGS])
    said = [phrase for phrase, _ in judged(shown)]
    drawn = remembered(
        base.denoiser(),
        say(base, said),
        say(base, [""] * len(said)),
        spread(asked.drawings, len(said)),
        steps=20,
        guidance=5.0,
        seed=asked.seed,
        on_step=quiet,
    )
    return Taught(drawn.ends.to(erased.denoiser().device), [phrase for phrase, _ in judged(named)])


PRESETS = {
    "small": Relearning(steps="5 10 20 40 80"),
    "medium": Relearning(steps="5 10 20 40 80 160 300"),
    "paper": Relearning(rate=1e-4),
}

"""MACE's harmonic mean of efficacy, specificity and generality (arXiv:2403.06135, section 4).

H = 3 / (1/(1 − ACC_e) + 1/ACC_s + 1/(1 − ACC_g)): not shown by its prompts, others shown by theirs,
not shown by synonyms. Without rows of synonyms, of the first two.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from efface.core import KEPT, PLAIN, Estimate, Row
from efface.outcomes import judged, outcomes
from efface.stats import harmonic


@dataclass(frozen=True)
class Harmonic:
    """Harmonic mean of what is forgotten and what is retained."""

    synonyms: str = "synonyms"
    """Attack that says the concept in other words."""

    def __call__(self, rows: Sequence[Row], base: Sequence[Row]) -> Estimate:
        efficacy, specificity = (outcomes(rows, kind) for kind in (PLAIN, KEPT))
        generality = outcomes(rows, self.synonyms)
        samples = [[not hit for hit in judged(efficacy)], judged(specificity)]
        if generality:
            samples.append([not hit for hit in judged(generality)])
        whole = len(efficacy) + len(specificity) + len(generality)
        return harmonic(samples, skipped=whole - sum(map(len, samples)))

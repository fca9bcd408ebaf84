"""Erased against base on the same prompts and seeds: difference, and McNemar's exact p-value."""

from collections.abc import Sequence
from dataclasses import dataclass

from efface.core import PLAIN, Estimate, Row
from efface.outcomes import outcomes, pairs
from efface.stats import difference, mcnemar


@dataclass(frozen=True)
class Change:
    """Share that shows what it names in the erased model, less that in the base model."""

    kind: str = PLAIN
    """Of which rows: those of an attack's name, of kept concepts, of another domain."""

    def __call__(self, rows: Sequence[Row], base: Sequence[Row]) -> Estimate:
        after, before, skipped = pairs(outcomes(rows, self.kind), outcomes(base, self.kind))
        return difference(after, before, skipped=skipped)


@dataclass(frozen=True)
class McNemar:
    """p-value that erasing changed nothing: small means it did."""

    kind: str = PLAIN
    """Of which rows: those of an attack's name, of kept concepts, of another domain."""

    def __call__(self, rows: Sequence[Row], base: Sequence[Row]) -> Estimate:
        after, before, skipped = pairs(outcomes(rows, self.kind), outcomes(base, self.kind))
        return mcnemar(after, before, skipped=skipped)

"""A genetic search over token sequences, as Ring-A-Bell's (arXiv:2310.10012).

A generation keeps its better half; each parent, with chance `crossover`, gives two children with
another parent, cut at one point; each sequence, with chance `mutation`, gets one random token. Only
sequences that are new are scored. The best one is never mutated.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator as Rng
from torch import Tensor

Score = Callable[[Int[Tensor, "n length"]], Float[Tensor, "n"]]
"""Sequences to their losses."""


@dataclass(frozen=True)
class Search:
    """How long and how wide to search."""

    population: int
    generations: int
    crossover: float = 0.5
    mutation: float = 0.25

    def minimise(
        self,
        score: Score,
        vocabulary: Int[Tensor, "words"],
        first: Int[Tensor, "n length"],
        rng: Rng,
    ) -> Int[Tensor, "found length"]:
        """Sequences by loss, lowest first; `first` are in the first generation."""
        length = first.shape[1]
        words = self._random(vocabulary, (self.population - len(first), length), rng)
        words = torch.cat([first, words])
        losses = score(words)
        for _ in range(self.generations - 1):
            best = losses.argsort(stable=True)[: self.population // 2]
            words, losses = words[best], losses[best]
            children = self._children(words, rng)
            grown = torch.cat([words, children])
            changed = self._mutate(grown, vocabulary, rng)
            changed[len(words) :] = True
            losses = torch.cat([losses, losses.new_zeros(len(children))])
            losses[changed] = score(grown[changed])
            words = grown
        return words[losses.argsort(stable=True)]

    def _children(self, parents: Int[Tensor, "n length"], rng: Rng) -> Int[Tensor, "m length"]:
        mates = torch.randint(len(parents), (len(parents),), generator=rng)
        cuts = torch.randint(1, parents.shape[1] + 1, (len(parents), 1), generator=rng)
        chosen = torch.rand(len(parents), generator=rng) < self.crossover
        own, other = parents[chosen], parents[mates[chosen]]
        head = torch.arange(parents.shape[1]) < cuts[chosen]
        return torch.cat([torch.where(head, own, other), torch.where(head, other, own)])

    def _mutate(
        self, words: Int[Tensor, "n length"], vocabulary: Int[Tensor, "words"], rng: Rng
    ) -> Tensor:
        """Change some in place, never the first; answers which."""
        changed = torch.rand(len(words), generator=rng) < self.mutation
        changed[0] = False
        places = torch.randint(words.shape[1], (len(words),), generator=rng)
        fresh = self._random(vocabulary, (len(words),), rng)
        words[changed, places[changed]] = fresh[changed]
        return changed

    @staticmethod
    def _random(
        vocabulary: Int[Tensor, "words"], shape: tuple[int, ...], rng: Rng
    ) -> Int[Tensor, "..."]:
        return vocabulary[torch.randint(len(vocabulary), shape, generator=rng)]

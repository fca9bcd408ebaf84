"""A denoiser with adapters behind some of its layers, whose weights are trained with `train`.

Adapters' weights are handed to `predict` by name like any other, "component/layer/part"; where they
are not, the denoiser is the base's. Nothing is left on the network between two calls.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxtyping import Float
from PIL.Image import Image
from torch import Generator, Tensor

from efface.backbone import Denoiser, Layered
from efface.core import NO_WEIGHTS, Gate, Said
from efface.gates.adapter import PARTS, answer, begun

Weights = Mapping[str, Tensor]


class Answer(NamedTuple):
    """What a call gave."""

    output: Float[Tensor, "batch c h w"]
    added: dict[str, Float[Tensor, "batch _ _"]]
    """By layer, what its adapter added."""


class Adapted:
    """Implements `efface.backbone.Denoiser`."""

    def __init__(self, denoiser: Denoiser, widths: Mapping[str, int]) -> None:
        """`widths`: by name, component/layer, the layers that get one, and what they put out."""
        self.base, self.widths = denoiser, widths
        self.module, self.noise, self.shape = denoiser.module, denoiser.noise, denoiser.shape
        self.pixels, self.device = denoiser.pixels, denoiser.device

    def begun(self, rank: int, rng: Generator) -> dict[str, Tensor]:
        """Adapters that do nothing yet."""
        return {
            f"{site}/{part}": weight.to(self.device)
            for site, width in self.widths.items()
            for part, weight in begun(width, rank, rng).items()
        }

    def names(self) -> list[str]:
        """The base's parameters."""
        return self.base.names()

    def weight(self, name: str) -> Tensor:
        """One of them."""
        return self.base.weight(name)

    def latents(self, pictures: Sequence[Image]) -> Float[Tensor, "n c h w"]:
        """What pictures are to the denoiser."""
        return self.base.latents(pictures)

    def predict(
        self,
        latents: Float[Tensor, "batch c h w"],
        times: Float[Tensor, "batch"],
        said: Said,
        weights: Weights = NO_WEIGHTS,
    ) -> Float[Tensor, "batch c h w"]:
        """The network's output, float32; differentiable in latents, rows and `weights`."""
        return self.run(latents, times, said, weights).output

    def run(
        self,
        latents: Float[Tensor, "batch c h w"],
        times: Float[Tensor, "batch"],
        said: Said,
        weights: Weights,
    ) -> Answer:
        """The output, and what adapters added on the way."""
        sites = [site for site in self.widths if named(site)[0] in weights]
        own = {name for site in sites for name in named(site)}
        rest = {name: weight for name, weight in weights.items() if name not in own}
        added = dict[str, Tensor]()

        def behind(site: str) -> Any:
            held = [weights[name] for name in named(site)]

            def add(module: Any, args: Any, out: Tensor) -> Tensor:
                added[site] = answer(out, held)
                return out + added[site].to(out.dtype)

            return add

        handles = [
            self.module.get_submodule(site.partition("/")[2]).register_forward_hook(behind(site))
            for site in sites
        ]
        try:
            return Answer(self.base.predict(latents, times, said, rest), added)
        finally:
            for handle in handles:
                handle.remove()


def named(site: str) -> list[str]:
    """Names of an adapter's weights."""
    return [f"{site}/{part}" for part in PARTS]


def gates(model: Layered, weights: Weights) -> tuple[Gate, ...]:
    """What a patch holds of trained adapters: two bytes a number."""
    sites = dict.fromkeys(name.rpartition("/")[0] for name in weights)
    return tuple(
        Gate(
            site,
            "adapter",
            model.reads(site),
            {},
            {part: weights[f"{site}/{part}"].detach().half().cpu() for part in PARTS},
        )
        for site in sites
    )

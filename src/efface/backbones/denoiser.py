"""The live denoiser: the one door to running it, for whatever trains or attacks.

It is a view whose tensors share storage with the model's own, frozen and in evaluation mode;
other weights are handed to `predict` and are never put into a model. What each family's denoiser
is told besides latents, time and rows stands here and nowhere else.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor, nn
from torch.func import functional_call

from efface.backbone import Noise
from efface.backbones.checkpoint import DAMAGE, Checkpoint
from efface.backbones.guided import unguided
from efface.backbones.noise import noise_of
from efface.backbones.sites import Family
from efface.core import NO_WEIGHTS, EffaceError, Encoded, Said

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class LiveDenoiser:
    """Implements `efface.backbone.Denoiser`."""

    def __init__(
        self, module: Any, kind: Family, noise: Noise, factor: int, vae: Callable[[], Any]
    ) -> None:
        """`factor`: pixels a side that one latent stands for."""
        if kind.name == "flux":
            raise EffaceError(
                "FLUX.1 was distilled to draw without an unconditional prediction, which methods "
                "that train guide away from: erase with rece or uce"
            )
        self.module = unguided(frozen_view(module))
        self.noise: Noise = noise
        self._kind, self._factor, self._vae = kind, factor, vae
        config: Any = module.config
        side = config.sample_size
        high, wide = (side, side) if isinstance(side, int) else side
        self.shape = (int(config.in_channels), int(high), int(wide))

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.module.parameters()).device

    def names(self) -> list[str]:
        """Every parameter, by component/name."""
        return [f"{self._kind.component}/{name}" for name, _ in self.module.named_parameters()]

    def weight(self, name: str) -> Tensor:
        """One of them."""
        return self.module.get_parameter(name.removeprefix(f"{self._kind.component}/"))

    def predict(
        self,
        latents: Float[Tensor, "batch c h w"],
        times: Float[Tensor, "batch"],
        said: Said,
        weights: Mapping[str, Tensor] = NO_WEIGHTS,
    ) -> Float[Tensor, "batch c h w"]:
        """The network's output, float32; differentiable in latents, rows and `weights`.

        `weights`: by name, tensors that stand in for the model's own.
        """
        own = next(self.module.parameters())
        like: dict[str, Any] = {"device": own.device, "dtype": own.dtype}
        swapped = {
            name.removeprefix(f"{self._kind.component}/"): w.to(**like)
            for name, w in weights.items()
        }
        told = TOLD[self._kind.name](self, said, like)
        told["timestep"] = (times * getattr(self.module.config, "timestep_scale", 1.0)).to(
            own.device
        )
        args = (latents.to(**like),)
        output = functional_call(self.module, swapped, args, {**told, "return_dict": False})[0]
        return output[:, : self.shape[0]].float()  # PixArt tells its variance too

    @property
    def pixels(self) -> tuple[int, int]:
        """Height and width of a picture."""
        return self.shape[1] * self._factor, self.shape[2] * self._factor

    @torch.no_grad()
    def latents(self, pictures: Sequence[Image]) -> Float[Tensor, "n c h w"]:
        """What pictures of any size are to the denoiser: their code's mean, scaled."""
        from diffusers.image_processor import VaeImageProcessor

        vae = self._vae()
        high, wide = self.pixels
        pixels = VaeImageProcessor(vae_scale_factor=self._factor).preprocess(
            [picture.convert("RGB") for picture in pictures], high, wide
        )
        code = vae.encode(pixels.to(vae.device, vae.dtype))
        found = code.latent_dist.mode() if hasattr(code, "latent_dist") else code.latent
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        scaled: Tensor = (found - shift) * vae.config.scaling_factor
        return scaled.float().to(self.device)


def uncompiled(module: Any) -> Any:
    """The module that `torch.compile` wraps, or that it is."""
    return getattr(module, "_orig_mod", module)


def frozen_view(module: nn.Module) -> nn.Module:
    """A copy of the tree of modules around the same storage; nothing in it asks for gradients."""
    held = [*module.parameters(), *module.buffers()]
    shared = {
        id(t): nn.Parameter(t.detach(), requires_grad=False)
        if isinstance(t, nn.Parameter)
        else t.detach()
        for t in held
    }
    return copy.deepcopy(module, shared).eval()


def _rows(said: Said, like: Mapping[str, Any]) -> dict[str, Any]:
    return {"encoder_hidden_states": said["text"].states.to(**like)}


def _pooled(said: Said, like: Mapping[str, Any]) -> Tensor:
    return said["pooled"].states[:, 0].to(**like)


def _attended(text: Encoded, device: Any) -> Tensor:
    """1 where the denoiser attends to a row, else 0."""
    places = torch.arange(text.states.shape[1])
    return (places < text.ends).to(device).long()


def _sd(denoiser: LiveDenoiser, said: Said, like: Mapping[str, Any]) -> dict[str, Any]:
    return _rows(said, like)


def _sdxl(denoiser: LiveDenoiser, said: Said, like: Mapping[str, Any]) -> dict[str, Any]:
    pooled = _pooled(said, like)
    sizes = torch.tensor([*denoiser.pixels, 0, 0, *denoiser.pixels]).to(**like)
    added = {"text_embeds": pooled, "time_ids": sizes.expand(len(pooled), 6)}
    return _rows(said, like) | {"added_cond_kwargs": added}


def _sd3(denoiser: LiveDenoiser, said: Said, like: Mapping[str, Any]) -> dict[str, Any]:
    return _rows(said, like) | {"pooled_projections": _pooled(said, like)}


def _sana(denoiser: LiveDenoiser, said: Said, like: Mapping[str, Any]) -> dict[str, Any]:
    return _rows(said, like) | {"encoder_attention_mask": _attended(said["text"], like["device"])}


def _pixart(denoiser: LiveDenoiser, said: Said, like: Mapping[str, Any]) -> dict[str, Any]:
    added: dict[str, Any] = {"resolution": None, "aspect_ratio": None}
    if denoiser.module.use_additional_conditions:
        high, wide = denoiser.pixels
        count = len(said["text"].states)
        added["resolution"] = torch.tensor([high, wide]).expand(count, 2).to(**like)
        added["aspect_ratio"] = torch.tensor([high / wide]).expand(count, 1).to(**like)
    return _sana(denoiser, said, like) | {"added_cond_kwargs": added}


TOLD = {
    "sd": _sd,
    "sdxl": _sdxl,
    "sd3": _sd3,
    "sana": _sana,
    "pixart": _pixart,
    "pixart-sigma": _pixart,
}
"""Family -> what its denoiser is told besides latents and times."""


def load_denoiser(checkpoint: Checkpoint, kind: Family) -> LiveDenoiser:
    """Read from a diffusers folder in float32."""
    import diffusers

    folder = checkpoint.root / kind.component
    checkpoint.where(kind.component)
    checkpoint.config(kind.component)
    scheduler = checkpoint.index.get("scheduler") or [None, ""]
    config = checkpoint.read_json(checkpoint.root / "scheduler" / "scheduler_config.json")
    vae = checkpoint.config("vae")
    try:
        module, found = getattr(diffusers, kind.denoiser).from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            variant=checkpoint.variant(kind.component),
            torch_dtype=torch.float32,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except DAMAGE as error:
        raise EffaceError(f"{folder} does not load ({error}): download it again") from error
    if lost := found["missing_keys"]:
        raise EffaceError(f"{folder} lacks {min(lost)!r}: download it again")
    noise = noise_of(str(scheduler[1]), config)
    return LiveDenoiser(module, kind, noise, _factor(vae), lambda: _vae(checkpoint))


def _vae(checkpoint: Checkpoint) -> Any:
    import diffusers

    folder = checkpoint.root / "vae"
    checkpoint.where("vae")
    named = str((checkpoint.index.get("vae") or [None, ""])[1])
    if not named.startswith("Autoencoder"):
        raise EffaceError(f"{checkpoint.root}: its vae is {named!r}, none that efface loads")
    try:
        return getattr(diffusers, named).from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            variant=checkpoint.variant("vae"),
            low_cpu_mem_usage=False,
        )
    except DAMAGE as error:
        raise EffaceError(f"{folder} does not load ({error}): download it again") from error


def live_denoiser(pipe: "DiffusionPipeline", kind: Family) -> LiveDenoiser:
    """A live pipeline's own."""
    name = type(pipe.scheduler).__name__
    noise = noise_of(name, pipe.scheduler.config)
    module, factor = getattr(pipe, kind.component), _factor(pipe.vae.config)
    return LiveDenoiser(module, kind, noise, factor, lambda: pipe.vae)


def _factor(vae: Mapping[str, Any]) -> int:
    """Pixels a side that one latent stands for."""
    blocks = vae.get("block_out_channels") or vae["encoder_block_out_channels"]
    return int(2 ** (len(blocks) - 1))

"""Record `tests/parity/esd.safetensors`: what the authors' two training programs regress onto.

From the root, `python tests/parity/record_esd.py CHECKOUT` with the project's python and a checkout
of rohitgandikota/erasing at 25613d2 (MIT). Called unchanged on the tiny pipeline:
`get_esd_trainable_parameters`, `esd_sd_call` and `FineTunedModel` for names and x_t, and `train` of
`alt_esd_diffusers.py`, with a diffuser of ours handed over, for the paper's target. Today's step
stands in a program's body: those lines are run as they are, in float32 where they say bfloat16.
"""

import importlib
import random
import sys
import tempfile
from contextlib import chdir
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

root = Path(sys.argv[1]).resolve()
sys.path[:0] = [str(Path.cwd()), str(root)]

from tests.parity.golden import double, lines, stand_in, sums, write  # noqa: E402

stand_in("transformers.CLIPFeatureExtractor")

from tests.tiny import build_tiny  # noqa: E402

older: Any = importlib.import_module("alt_esd_diffusers")
today: Any = importlib.import_module("esd_sd")
FineTunedModel, StableDiffuser = older.FineTunedModel, older.StableDiffuser

STEPS, SIDE, MOVED = 5, 8, 3.0
work = Path(tempfile.mkdtemp())
pipe = StableDiffusionPipeline.from_pretrained(build_tiny(work / "tiny"))
pipe.set_progress_bar_config(disable=True)
edited = StableDiffusionPipeline.from_pretrained(build_tiny(work / "other", seed=1)).unet
base = pipe.unet
held = dict[str, Any]()
story: dict[str, Any] = {
    "commit": "rohitgandikota/erasing@25613d27892326e0c7770f7f3555bea4be150089",
    "model": sums(base), "edited": sums(edited), "moved": MOVED,
}  # fmt: skip
story["trained"] = {
    method: today.get_esd_trainable_parameters(base, method)[0]
    for method in ("esd-x", "esd-u", "esd-all", "esd-x-strict")
}

# Today's step, at each precision.
step = lines(root / "esd_sd.py", "optimizer.zero_grad()", "optimizer.step()")


class Idle:
    """Stands for an optimiser and a progress bar."""

    def zero_grad(self) -> None: ...
    def set_postfix(self, **told: Any) -> None: ...


for dtype in ("float32", "float64"):
    random.seed(0)
    turn = double if dtype == "float64" else lambda module: module
    pipe.text_encoder = turn(pipe.text_encoder)
    pipe.scheduler.set_timesteps(STEPS)
    scope: dict[str, Any] = vars(today) | {
        "pipe": pipe, "base_unet": turn(base), "esd_unet": turn(edited), "optimizer": Idle(),
        "pbar": Idle(), "losses": [], "batchsize": 1, "height": 2 * SIDE, "width": 2 * SIDE,
        "num_inference_steps": STEPS, "guidance_scale": 3.0, "negative_guidance": 2.0,
        "erase_concept": "cat", "erase_concept_from": None, "timestep_cond": None,
        "criteria": torch.nn.MSELoss(), "device": "cpu",
    }  # fmt: skip
    pipe.unet = scope["base_unet"]
    pipe.unet.requires_grad_(False)
    scope["esd_unet"].zero_grad()
    scope["erase_embeds"], scope["null_embeds"] = (
        r.detach() for r in pipe.encode_prompt("cat", "cpu", 1, True, negative_prompt="")
    )
    names, parameters = today.get_esd_trainable_parameters(scope["esd_unet"], "esd-x")
    exec(step, scope)
    held[f"today/{dtype}/loss"] = scope["loss"]
    held[f"today/{dtype}/latents"] = scope["xt"]
    held[f"today/{dtype}/rows"] = torch.cat([scope["null_embeds"], scope["erase_embeds"]])
    held |= {f"today/{dtype}/grad/{n}": p.grad for n, p in zip(names, parameters, strict=True)}
held["today/times"], held["today/time"] = (
    pipe.scheduler.timesteps,
    scope["run_till_timestep_scheduler"],
)
story["seed"] = scope["seed"]


# The older program, whose start is the prediction without the prompt.
class Tiny(StableDiffuser):  # type: ignore[misc, valid-type]
    """Their diffuser around the tiny pipeline, at the size of its latents."""

    def __init__(self, scheduler: str) -> None:
        torch.nn.Module.__init__(self)
        held_by = StableDiffusionPipeline.from_pretrained(work / "tiny")
        self.tokenizer, self.text_encoder = held_by.tokenizer, held_by.text_encoder
        self.unet, self.scheduler = (
            held_by.unet,
            DDIMScheduler.from_config(held_by.scheduler.config),
        )

    def get_initial_latents(self, *args: Any, **named: Any) -> torch.Tensor:
        return torch.randn(1, 4, SIDE, SIDE) * self.scheduler.init_noise_sigma

    def predict_noise(self, iteration: int, latents: Any, rows: Any, guidance_scale: float) -> Any:
        asked.append((latents, self.scheduler.timesteps[iteration], rows))
        return super().predict_noise(iteration, latents, rows, guidance_scale)


class Writing(Idle):
    """An optimiser that keeps the gradients of its one step."""

    def __init__(self, parameters: list[torch.Tensor], lr: float) -> None:
        self.parameters = parameters

    def step(self) -> None:
        grads.extend(p.grad for p in self.parameters)


class Loss(torch.nn.MSELoss):
    """Keeps what it gave."""

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        found = super().forward(one, other)
        losses.append(found)
        return found


class Moved(FineTunedModel):  # type: ignore[misc, valid-type]
    """Begins with weights that are not the base's, so that there is something to regress."""

    def __init__(self, model: Any, train_method: str) -> None:
        super().__init__(model, train_method)
        for parameter in self.parameters():
            parameter.data.mul_(MOVED)


asked, grads, losses = list[Any](), list[Any](), list[Any]()
with chdir(work):
    diffuser = Tiny("DDIM")
    for method in ("xattn", "xattn-strict", "noxattn", "selfattn", "full"):
        picked = FineTunedModel(diffuser, method).ft_modules
        story["trained"][method] = [
            f"{name.removeprefix('unet.')}.{part}"
            for name, module in picked.items()
            for part, _ in module.named_parameters()
        ]
    older.StableDiffuser, older.FineTunedModel = Tiny, Moved
    torch.optim.Adam, torch.nn.MSELoss = Writing, Loss  # type: ignore[assignment, misc]
    torch.manual_seed(1)  # noqa: TID251 - theirs draws from it
    older.train("cat", "cat", "xattn", 1, 1.5, 1e-5, str(work / "out.pt"), "cpu")
held["older/latents"], held["older/time"], held["older/rows"] = asked[-1]
held["older/loss"] = losses[0]
held |= {f"older/grad/{n}": g for n, g in zip(story["trained"]["xattn"], grads, strict=True)}
write("esd", held, story)

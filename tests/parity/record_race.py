"""Record `tests/parity/race.safetensors`: the authors' attack, its step of training, its layers.

From the root, `python tests/parity/record_race.py CHECKOUT` with the project's python and a
checkout of chkimmmmm/R.A.C.E. at 424b9c0 (MIT). `pgd_attack` is called; the lines of the training
loop from the attack to the gradients, and those that choose parameters, stand within a function and
are run as they are, on the tiny U-Net. What is imported and not used here is stood in for.
"""

import importlib
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

root = Path(sys.argv[1]).resolve()
sys.path[:0] = [str(Path.cwd()), str(root / "train-scripts")]

from tests import ldm  # noqa: E402
from tests.parity.golden import lines, stand_in, sums, write  # noqa: E402
from tests.tiny import build_tiny  # noqa: E402

stand_in(
    "omegaconf.OmegaConf", "torchvision.transforms", "einops.rearrange",
    "ldm.models.diffusion.ddim.DDIMSampler", "ldm.util.instantiate_from_config",
    "convertModels.savemodelDiffusers",
)  # fmt: skip
theirs: Any = importlib.import_module("train-esd")
SOURCE = root / "train-scripts" / "train-esd.py"
REACH, TIME, SEED, MOVED = 0.1, 700, 5, 2.0


class Applied:
    """Their model's two calls, around a diffusers U-Net."""

    def __init__(self, unet: nn.Module) -> None:
        self.unet = unet

    def apply_model(self, latents: Tensor, time: Tensor, rows: Tensor) -> Tensor:
        return self.unet(latents, time, encoder_hidden_states=rows).sample


work = Path(tempfile.mkdtemp())
pipe = StableDiffusionPipeline.from_pretrained(build_tiny(work / "tiny"))
base = pipe.unet.requires_grad_(False)
edited = StableDiffusionPipeline.from_pretrained(build_tiny(work / "other", seed=1)).unet
rng = torch.Generator().manual_seed(7)
latents, noise = (torch.randn(1, 4, 8, 8, generator=rng) for _ in range(2))
time = torch.tensor([TIME])
rows, empty = (r.detach() for r in pipe.encode_prompt("cat", "cpu", 1, True, negative_prompt=""))
held: dict[str, Any] = {"latents": latents, "noise": noise, "rows": torch.cat([empty, rows])}
limits = {"min": rows.min(), "max": rows.max()}
for kind, distance in (("l2", nn.MSELoss()), ("l1", nn.L1Loss())):
    for count in (1, 10):
        torch.manual_seed(SEED)  # noqa: TID251 - theirs draws from it
        found, _, loss = theirs.pgd_attack(
            edited, latents, time, rows, noise, distance, limits, num_iter=count,
            alpha=REACH / 4, epsilon=REACH,
        )  # fmt: skip
        held |= {f"attack/{kind}/{count}": found, f"attack/{kind}/{count}/loss": loss}

chosen = lines(SOURCE, "parameters = []", "# set model to train")
config = ldm.TINY["sd1"]
named = {
    stored.removeprefix(ldm.DENOISER): ours
    for stored, ours in ldm.ldm_unet({n: n for n in ldm.unet(config).state_dict()}, config).items()
}
trained = dict[str, list[str]]()
for method in ("xattn", "noxattn", "selfattn", "full"):
    listed = Namespace(named_parameters=lambda: [(name, name) for name in named])
    scope: dict[str, Any] = {
        "train_method": method, "model": Namespace(model=Namespace(diffusion_model=listed)),
    }  # fmt: skip
    exec(chosen, scope)
    trained[method] = [named[name] for name in scope["parameters"]]

step = lines(SOURCE, "if args.adv_train:", "losses.append", after="# TRAINING CODE")
crossed = {n: p for n, p in edited.named_parameters() if ".attn2." in n}
start = [p.detach() * MOVED for p in crossed.values()]
for lasso in (False, True):
    edited.zero_grad()
    torch.manual_seed(SEED)  # noqa: TID251 - theirs draws from it
    scope = vars(theirs) | {
        "args": Namespace(adv_train=True, epsilon=REACH, lasso=lasso), "model": Applied(edited),
        "z": latents, "t_enc_ddpm": time, "emb_n": rows, "start_code": noise, "devices": ["cpu"],
        "adv_loss": nn.MSELoss(), "txt_emb_min_max": limits, "criteria": nn.MSELoss(),
        "negative_guidance": 1.0, "lasso_loss_fn": nn.L1Loss(), "lasso_lambda": 0.1,
        "parameters": list(crossed.values()), "original_parameters": start,
        "e_0": base(latents, time, empty).sample, "e_p": base(latents, time, rows).sample,
    }  # fmt: skip
    exec(step, scope)
    held[f"step/{lasso}/loss"] = scope["loss"]
    held |= {f"step/{lasso}/grad/{n}": p.grad.clone() for n, p in crossed.items() if ".to_v." in n}
story = {
    "commit": "chkimmmmm/R.A.C.E.@424b9c0553fc6b5f9f53e9f42bdcfa3f18e31cf3", "reach": REACH,
    "time": TIME, "seed": SEED, "moved": MOVED, "trained": trained, "names": list(named.values()),
    "model": sums(base), "edited": sums(edited),
}  # fmt: skip
write("race", held, story)

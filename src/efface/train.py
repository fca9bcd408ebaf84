"""The one optimisation loop: Adam on named weights in float32, resumed to the bit, stopped early.

A loop knows nothing of models: it is handed weights to start from and a loss of them. Where it
stands is on disk from time to time; killed and started again with the same inputs it goes on there
and ends with the same bits.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Generator, Tensor

from efface.backbone import Backbone
from efface.cache import cache_folder, forget
from efface.core import NO_WEIGHTS, Concept, EffaceError, OnStep
from efface.edition import edition
from efface.moments import digest
from efface.output import write_whole

Weights = Mapping[str, Tensor]
Loss = Callable[[Weights, int, Generator], Tensor]
"""Of the weights, the step and the generator."""
UNFINISHED = 20
"""Standings of earlier fits that the cache keeps."""
EVERY = 20
"""Steps between two looks at what is kept."""


class Watch(NamedTuple):
    """Stops a run that moves what it should not."""

    moved: Callable[[Weights], float]
    limit: float
    every: int


def watching(moved: Callable[[Weights], float], limit: float | None) -> Watch | None:
    """Looks every so often, if there is a limit."""
    return None if limit is None else Watch(moved, limit, EVERY)


class Trained(NamedTuple):
    """What a run came to."""

    weights: dict[str, Tensor]
    steps: int
    stopped: str
    """Why no further step was made."""
    losses: list[float]

    def facts(
        self, erased: Callable[[Weights], float], kept: Callable[[Weights], float]
    ) -> dict[str, Any]:
        """What a patch's header says of a training; the arguments measure how far it moves."""
        return {
            "steps": self.steps,
            "stopped": self.stopped,
            "loss": [self.losses[i] for i in (0, -1)] if self.losses else None,
            "moved": {"erased": erased(self.weights), "kept": kept(self.weights)},
            "trained": sum(w.numel() for w in self.weights.values()),
        }


@dataclass
class Standing:
    """Where a run stands, on disk until it is done."""

    path: Path
    seconds: float = 30.0
    """Least time between two writings."""
    share: float = 0.05
    """Of the time that may go into writing."""
    _last: float = field(default_factory=time.monotonic)
    _took: float = 0.0

    def due(self) -> bool:
        """Whether it is time to write."""
        return time.monotonic() - self._last >= max(self.seconds, self._took / self.share)

    def write(self, tensors: Mapping[str, Tensor], story: Mapping[str, Any]) -> None:
        """All of it or nothing."""
        begun = time.monotonic()
        held = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, save(held, {"efface": json.dumps(story)}))
        except OSError as error:
            raise EffaceError(
                f"{self.path} cannot be written ({error.strerror}): make room there, or name "
                "another folder in EFFACE_CACHE"
            ) from error
        self._last = time.monotonic()
        self._took = self._last - begun

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was written; None where nothing was, or what is there is damaged."""
        try:
            with safe_open(self.path, framework="pt") as file:
                story = json.loads((file.metadata() or {})["efface"])
                return {k: file.get_tensor(k) for k in file.keys()}, story  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, ValueError):
            return None

    def done(self) -> None:
        """The run is over."""
        self.path.unlink(missing_ok=True)


def standing_of(
    model: Backbone, concept: Concept, story: Mapping[str, Any], rng: Generator
) -> Standing:
    """Where this fit of this model stands: named by all that its result depends on.

    Fits that were never finished leave theirs behind; the oldest go.
    """
    forget("run", UNFINISHED)
    said = [model.encode((*concept.erase, *concept.goals()), s).states for s in model.streams]
    told = json.dumps(
        [edition(), model.fingerprint, digest(model.denoiser()), asdict(concept), dict(story)]
    )
    asked = hashlib.sha256(told.encode())
    for tensor in (*said, rng.get_state()):
        asked.update(tensor.numpy().tobytes())
    return Standing(cache_folder() / f"run-{asked.hexdigest()[:32]}.safetensors")


class _Run:
    """Weights, optimiser, generator and what was seen so far: all that a resumed run needs."""

    def __init__(self, start: Weights, rate: float, rng: Generator, beside: Weights) -> None:
        self.weights = {k: w.detach().float().clone().requires_grad_() for k, w in start.items()}
        self.optimiser = torch.optim.Adam(list(self.weights.values()), lr=rate)
        self.rng, self.step, self.losses, self.stopped = rng, 0, list[float](), ""
        self.beside = beside
        self.good = {k: w.detach().clone() for k, w in self.weights.items()}
        """The weights when they were last found not to move too much, and at which step."""
        self.good_at = 0

    def write(self, standing: Standing) -> None:
        tensors: dict[str, Tensor] = {"rng": self.rng.get_state()}
        tensors |= {f"beside.{name}": tensor for name, tensor in self.beside.items()}
        for i, (name, weight) in enumerate(self.weights.items()):
            tensors |= {f"weight.{i}": weight, f"good.{i}": self.good[name]}
            kept = self.optimiser.state[weight]
            tensors |= {f"{key}.{i}": value for key, value in kept.items()}
        story = {k: getattr(self, k) for k in ("step", "losses", "good_at", "stopped")}
        standing.write(tensors, story)

    @torch.no_grad()
    def read(self, standing: Standing) -> None:
        if (found := standing.read()) is None:
            return
        tensors, story = found
        for i, (name, weight) in enumerate(self.weights.items()):
            weight.copy_(tensors[f"weight.{i}"])
            self.good[name].copy_(tensors[f"good.{i}"])
            self.optimiser.state[weight] = {
                key: tensors[f"{key}.{i}"].to("cpu" if key == "step" else weight.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
        for name, tensor in self.beside.items():
            tensor.copy_(tensors[f"beside.{name}"])
        self.rng.set_state(tensors["rng"])
        for key, value in story.items():
            setattr(self, key, value)


def train(
    start: Weights,
    loss: Loss,
    *,
    steps: int,
    rate: float,
    rng: Generator,
    on_step: OnStep,
    watch: Watch | None = None,
    standing: Standing | None = None,
    whole: int = 1,
    last: bool = True,
    beside: Weights = NO_WEIGHTS,
) -> Trained:
    """Descend `loss` for `steps` steps.

    `whole`: a run is picked up at multiples of it only, since `loss` remembers things in between.
    `last`: nothing follows; else the end of this run is kept until what follows it is done.
    `beside`: what else `loss` changes from step to step, in place.
    """
    run = _Run(start, rate, rng, beside)
    if standing is not None:
        run.read(standing)
    while run.step < steps and not run.stopped:
        if standing is not None and run.step and run.step % whole == 0 and standing.due():
            run.write(standing)
        on_step("training", run.step, steps)
        _descend(run, loss, standing)
        if watch is None or (run.step % watch.every and run.step < steps):
            continue
        if not (moved := watch.moved(_still(run.weights))) <= watch.limit:
            run.stopped = (
                f"a further step would move what is kept by {moved:.3g}, the limit {watch.limit}"
            )
            break
        run.good_at = run.step
        for name, weight in run.weights.items():
            run.good[name].copy_(weight.detach())
    if standing is not None and last:
        standing.done()
    elif standing is not None and standing.due():
        run.write(standing)
    ended = _still(run.weights) if watch is None else run.good
    done = run.step if watch is None else run.good_at
    return Trained(ended, done, run.stopped or "the steps asked for were done", run.losses)


def _descend(run: _Run, loss: Loss, standing: Standing | None) -> None:
    """One step."""
    value = loss(run.weights, run.step, run.rng)
    if not value.isfinite():
        path = standing.path if standing and standing.path.exists() else None
        kept = f"; the last state before it is kept in {path}" if path else ""
        raise EffaceError(f"the loss is {value.item()} at step {run.step}: lower the rate{kept}")
    run.optimiser.zero_grad()
    grads = torch.autograd.grad(value, list(run.weights.values()), materialize_grads=True)
    for weight, grad in zip(run.weights.values(), grads, strict=True):
        weight.grad = grad
    run.optimiser.step()
    run.losses.append(value.item())
    run.step += 1


def _still(weights: Weights) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in weights.items()}

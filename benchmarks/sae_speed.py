"""Training a top-k autoencoder, ours beside sae-lens's: `make sae-bench SAE_LENS=PYTHON`.

PYTHON is one that has sae-lens (it needs 60 packages, so it has an environment of its own). Both
train on the same rows in the same shape, one thread each, turn by turn. No feature is dead: AuxK is
off. sae-lens runs as it does by default, with dense activations: its sparse ones (6.54.12) end in
an operation that torch 2.13 has not on a CPU.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import judged, load, machine, run, spread

OUT = Path("benchmarks/sae_speed.json")
BAR = 1.5
WIDTH, FEATURES, K, BATCH, STEPS, ROUNDS = 256, 4096, 32, 4096, 7, 2


def rows() -> Iterator[torch.Tensor]:
    """The same batches for both."""
    rng = torch.Generator().manual_seed(0)
    atoms = torch.randn(512, WIDTH, generator=rng)
    while True:
        on = torch.rand(BATCH, 512, generator=rng) < 0.03
        yield (on * torch.rand(BATCH, 512, generator=rng)) @ atoms


def ours() -> Callable[[torch.Tensor], object]:
    """A step of `efface.sae_train`."""
    from efface.sae_train import Recipe, Trainer

    return Trainer(Recipe(features=FEATURES, k=K, batch=BATCH), next(rows())).step


def theirs() -> Callable[[torch.Tensor], object]:
    """A step of sae-lens's trainer."""
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=WIDTH, d_sae=FEATURES, k=K))
    told = SAETrainerConfig(
        total_training_samples=10**9,
        train_batch_size_samples=BATCH,
        lr_end=1e-3,
        lr=1e-3,
        logger=LoggingConfig(log_to_wandb=False),
    )
    step: Callable[[torch.Tensor], object] = SAETrainer(told, sae, rows()).step
    return step


WHOSE: dict[str, Callable[[], Callable[[torch.Tensor], object]]] = {
    "efface": ours,
    "sae-lens": theirs,
}


def timed(name: str) -> dict[str, list[float]]:
    """Seconds of each step: on the wall, and of the processor."""
    step, given = WHOSE[name](), rows()
    wall, cpu = list[float](), list[float]()
    for _ in range(STEPS):
        batch = next(given)
        started, used = time.perf_counter(), time.process_time()
        step(batch)
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
    return {"wall": wall[1:], "cpu": cpu[1:]}  # the first step warms up


def main() -> None:
    """Turn by turn, each in a process of its own; the least of all steps counts."""
    rival = os.environ.get("SAE_LENS")
    if rival is None:
        raise SystemExit("name a python that has sae-lens: SAE_LENS=/path/to/python")
    before, steps = load(), {name: {"wall": list[float](), "cpu": list[float]()} for name in WHOSE}
    for _ in range(ROUNDS):
        for name in WHOSE:
            python = sys.executable if name == "efface" else rival
            found = run(
                (python, "-m", "benchmarks.sae_speed", name),
                OMP_NUM_THREADS="1",
                WANDB_MODE="disabled",
                PYTHONPATH=os.pathsep.join([str(Path("src").resolve()), str(Path.cwd())]),
            )
            for kind, values in json.loads(found.out.splitlines()[-1]).items():
                steps[name][kind] += values
    least = {kind: {n: min(s[kind]) for n, s in steps.items()} for kind in ("wall", "cpu")}

    def ratio(kind: str) -> float:
        return least[kind]["sae-lens"] / least[kind]["efface"]

    told: dict[str, Any] = {
        "command": "make sae-bench SAE_LENS=PYTHON",
        "machine": machine(),
        "load before": before,
        "shape": {"width": WIDTH, "features": FEATURES, "k": K, "tokens a step": BATCH},
        "tokens per second": {n: round(BATCH / s) for n, s in least["wall"].items()},
        "times faster": judged(ratio("wall"), BAR, least=True),
        "times faster by processor time": judged(ratio("cpu"), BAR, least=True),
        "seconds a step": {n: {k: spread(v) for k, v in s.items()} for n, s in steps.items()},
    }
    OUT.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps({k: v for k, v in told.items() if k != "seconds a step"}, indent=1))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(timed(sys.argv[1])))
    else:
        main()

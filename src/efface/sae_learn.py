"""Learning an autoencoder from what a text encoder says of captions, with stops in between.

Captions are gone through in chunks; a chunk's tokens, start token and padding left out, are
shuffled among themselves. A checkpoint says how far it came, so that a run that was killed at any
step ends with the same bits as one that was not.
"""

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Generator, Tensor

from efface.backbone import Layered
from efface.captions import Captions
from efface.core import EffaceError, OnStep
from efface.output import write_whole
from efface.sae import TopK
from efface.sae_train import Figures, Recipe, Trainer, figures

CHECKPOINT = "training.safetensors"
"""File in the folder of an autoencoder that is not finished."""
CHUNK = 4096
"""Captions whose tokens are in memory at once."""
SPOKEN = 256
"""Captions given to the model at once."""
EVERY = 30.0
"""Seconds between checkpoints."""


@dataclass
class Place:
    """How far a run came."""

    epoch: int = 0
    chunk: int = 0
    batch: int = 0


class Learned(NamedTuple):
    """A finished autoencoder, with its figures on the last chunk."""

    sae: TopK
    figures: Figures
    tokens: int
    """Seen in all epochs."""


def rows_of(model: Layered, site: str, captions: list[str]) -> Float[Tensor, "tokens width"]:
    """What a layer says at the tokens of captions."""
    found = []
    for start in range(0, len(captions), SPOKEN):
        heard = model.heard(captions[start : start + SPOKEN], site)
        found.append(heard.rows[heard.holds])
    return torch.cat(found)


class Learning:
    """One run: where it stands, and how it goes on."""

    def __init__(self, model: Layered, site: str, captions: Captions, recipe: Recipe) -> None:
        self.model, self.site, self.captions, self.recipe = model, site, captions, recipe
        self.place = Place()
        self.tokens = 0
        self._held: tuple[int, Tensor] | None = None
        self._reading: tuple[int, Iterator[str]] = (0, captions.read())

    @cached_property
    def trainer(self) -> Trainer:
        """The autoencoder as far as it is; begins at the first chunk's tokens."""
        return Trainer(self.recipe, self._rows(0))

    @property
    def chunks(self) -> int:
        """How many chunks the captions make."""
        return -(-self.captions.count // CHUNK)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be of this run."""
        return {
            "recipe": asdict(self.recipe),
            "captions": self.captions.digest,
            "site": self.site,
            "reads": self.model.reads(self.site),
        }

    def _rows(self, chunk: int) -> Tensor:
        """The tokens of a chunk; those of the last one asked for are held."""
        if self._held is None or self._held[0] != chunk:
            texts = self._texts(chunk)
            self._held = chunk, rows_of(self.model, self.site, texts)
        return self._held[1]

    def _texts(self, chunk: int) -> list[str]:
        """The captions of a chunk; those of the one after the last asked for are read on."""
        come, texts = self._reading
        if come > chunk:
            come, texts = 0, self.captions.read()
        skipped = (chunk - come) * CHUNK
        found = [*itertools.islice(texts, skipped, skipped + CHUNK)]
        self._reading = chunk + 1, texts
        return found

    def _batches(self) -> Iterator[Tensor]:
        """The rest of the run, batch by batch; `place` is where the next one starts."""
        for epoch in range(self.place.epoch, self.recipe.epochs):
            for chunk in range(self.place.chunk, self.chunks):
                rows = self._rows(chunk)
                turn = epoch * self.chunks + chunk
                rng = Generator().manual_seed((self.recipe.seed << 32) + turn)
                order = torch.randperm(len(rows), generator=rng).split(self.recipe.batch)
                for i in range(self.place.batch, len(order)):
                    self.place = Place(epoch, chunk, i + 1)
                    yield rows[order[i]]
                self.place = Place(epoch, chunk + 1, 0)
            self.place = Place(epoch + 1, 0, 0)

    def run(self, on_step: OnStep, keep: Callable[["Learning"], None]) -> Learned:
        """To the end; `keep` is called after every step."""
        per_chunk = len(self._rows(self.place.chunk % self.chunks)) / min(
            CHUNK, self.captions.count
        )
        expected = max(1, round(per_chunk * self.captions.count * self.recipe.epochs))
        for rows in self._batches():
            now = self.trainer.step(rows)
            self.tokens += len(rows)
            told = f"explained {now.explained:.3f}, L0 {now.l0:.1f}, dead {100 * now.dead:.1f} %"
            on_step(told, min(self.tokens, expected), expected)
            keep(self)
        sae = self.trainer.finished()
        found = figures(sae, self._rows(self.chunks - 1))
        on_step("learned", expected, expected)
        return Learned(replace(sae, metadata=self._told(found)), found, self.tokens)

    def _told(self, found: Figures) -> dict[str, Any]:
        """The story of the autoencoder, in SAELens' words where it has some."""
        return {
            "model_name": self.identity["reads"],
            "hook_name": self.site,
            "efface": {
                **self.identity,
                "count": self.captions.count,
                "tokens": self.tokens,
                "figures": found._asdict(),
                "masked": "start token and padding",
            },
        }

    def state(self) -> bytes:
        """A checkpoint file's content."""
        story = {**self.identity, "place": asdict(self.place), "tokens": self.tokens}
        story["steps"] = self.trainer.steps
        tensors = {name: t.detach().contiguous() for name, t in self.trainer.tensors().items()}
        told = json.dumps(story)
        return to_bytes(tensors, {"learning": told, "sha256": _checksum(told, tensors)})

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint, or one sentence on why that cannot be."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            told = metadata["learning"]
            if metadata["sha256"] != _checksum(told, held):
                raise EffaceError(f"{path} is damaged: delete it to start again")
            story = json.loads(told)
        except (OSError, SafetensorError, KeyError) as error:
            raise EffaceError(f"{path} is damaged ({error}): delete it to start again") from error
        for name, value in self.identity.items():
            if story[name] != value:
                raise EffaceError(
                    f"{path} is of a run with another {name}: choose another folder, or delete it "
                    "to start again"
                )
        for name, tensor in self.trainer.tensors().items():
            tensor.copy_(held[name])
        self.trainer.steps, self.tokens = story["steps"], story["tokens"]
        self.place = Place(**story["place"])


def _checksum(told: str, tensors: dict[str, Tensor]) -> str:
    found = hashlib.sha256(told.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def learn(
    model: Layered,
    site: str,
    captions: Captions,
    recipe: Recipe,
    on_step: OnStep,
    folder: Path | None = None,
    every: float = EVERY,
) -> Learned:
    """An autoencoder of a layer; with a `folder`, checkpoints there, the result too at the end."""
    run = Learning(model, site, captions, recipe)
    if folder is None:
        return run.run(on_step, lambda _: None)
    path = folder / CHECKPOINT
    folder.mkdir(parents=True, exist_ok=True)
    if path.exists():
        run.resume(path)
    last = time.monotonic()

    def keep(now: Learning) -> None:
        nonlocal last
        if time.monotonic() - last >= every:
            write_whole(path, now.state())
            last = time.monotonic()

    learned = run.run(on_step, keep)
    learned.sae.save(folder)
    path.unlink(missing_ok=True)
    return learned

"""The loop that draws what is judged: order, lockstep, failures, batches."""

import weakref
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image as Files
from PIL.Image import Image
from torch import Generator as Rng

from efface import attacks
from efface.backbone import Backbone
from efface.backbones.model import open_pipeline
from efface.backbones.pipeline import apply, draw
from efface.core import Case, Concept, Detector, Row, Verdict, quiet
from efface.patch import load
from efface.run import Scene, drive
from efface.store import Store, open_store

CONCEPT = Concept("cat", ("cat",))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "run", {"what": "a test"}) as opened:
        yield opened


def brightness(pictures: Sequence[Image]) -> list[Verdict]:
    """Never a hit; the score tells pictures apart."""
    return [Verdict(float(np.asarray(p).mean()), False, {"bright": 1 / 3}) for p in pictures]


def scene(pipe: DiffusionPipeline, patch: Path, store: Store, batch: int = 4) -> Scene:
    erased, base = (open_pipeline(p, frozen=True) for p in (apply(pipe, load(patch)), pipe))
    return Scene(erased, base, CONCEPT, store, batch=batch)


def roots(count: int, detector: Detector = brightness) -> list[tuple[Case, Detector]]:
    return [(Case(f"a cat {i}", seed=i, steps=2), detector) for i in range(count)]


@dataclass(frozen=True)
class Scripted:
    """Yields as many cases as the seed of its root says; raises where told to."""

    access: ClassVar[attacks.Access] = "none"
    from_picture: ClassVar[bool] = False
    broken: int = -1

    def run(
        self, erased: Backbone, base: Backbone, concept: Concept, case: Case, rng: Rng
    ) -> Generator[Case, Verdict, None]:
        for i in range(case.seed):
            if case.seed == self.broken and i == 1:
                raise ArithmeticError("the attack's own fault")
            verdict = yield replace(case, prompt=f"{case.prompt} try {i}")
            assert isinstance(verdict, Verdict)


def test_every_query_is_a_row(pipe: DiffusionPipeline, tiny_patch: Path, store: Store) -> None:
    drive(scene(pipe, tiny_patch, store), "scripted", Scripted(), roots(5), quiet)
    rows = list(store.rows)
    assert sorted((r.root.seed, r.step) for r in rows) == [
        (i, j) for i in range(5) for j in range(i)
    ]
    for row in rows:
        assert row.case.prompt == f"a cat {row.root.seed} try {row.step}"
        assert row.attack == "scripted"
        assert row.image is not None
        assert (store.folder / row.image).is_file()
        assert row.verdict is not None
        assert row.verdict.labels == {"bright": 0.333333}


def test_a_hit_ends_the_attack(pipe: DiffusionPipeline, tiny_patch: Path, store: Store) -> None:
    asked = []

    def on_second(pictures: Sequence[Image]) -> list[Verdict]:
        asked.append(len(pictures))
        return [Verdict(1.0, len(asked) == 2)] * len(pictures)

    drive(scene(pipe, tiny_patch, store), "seeds", attacks.build("seeds", k=5),
          roots(1, on_second), quiet)  # fmt: skip
    assert [r.verdict and r.verdict.hit for r in store.rows] == [False, True]


def test_roots_advance_together(pipe: DiffusionPipeline, tiny_patch: Path, store: Store) -> None:
    sizes = []

    def counting(pictures: Sequence[Image]) -> list[Verdict]:
        sizes.append(len(pictures))
        return brightness(pictures)

    drive(scene(pipe, tiny_patch, store), "seeds", attacks.build("seeds", k=3),
          roots(4, counting), quiet)  # fmt: skip
    assert sizes == [4, 4, 4]


def test_pictures_are_those_of_one_by_one(
    pipe: DiffusionPipeline, tiny_patch: Path, store: Store
) -> None:
    drive(scene(pipe, tiny_patch, store), "none", attacks.build("none"), roots(4), quiet)
    erased = apply(pipe, load(tiny_patch))
    for row in store.rows:
        assert row.image is not None
        alone = erased(
            row.case.prompt,
            num_inference_steps=row.case.steps,
            guidance_scale=row.case.guidance,
            generator=torch.Generator().manual_seed(row.case.seed),
        ).images[0]
        with Files.open(store.folder / row.image) as file:
            off = np.asarray(file).astype(int) - np.asarray(alone).astype(int)
        assert np.abs(off).max() <= 1  # the last bit of a product in a batch


def test_base_model_goes_to_its_own_rows(
    pipe: DiffusionPipeline, tiny_patch: Path, store: Store
) -> None:
    here = scene(pipe, tiny_patch, store)
    for base in (True, False):
        drive(here, "none", attacks.build("none"), roots(1), quiet, base=base)
    [before], [after] = store.base, store.rows
    assert before.root == after.root
    assert before.image != after.image


def test_a_detector_that_crashes_costs_one_verdict(
    pipe: DiffusionPipeline, tiny_patch: Path, store: Store
) -> None:
    drawn = draw(apply(pipe, load(tiny_patch)), [roots(4)[2][0]], quiet)[0]
    bad = np.asarray(drawn).astype(int)

    def touchy(pictures: Sequence[Image]) -> list[Verdict]:
        if any(np.abs(np.asarray(p).astype(int) - bad).max() <= 1 for p in pictures):
            raise RuntimeError("no face\nfound")
        return brightness(pictures)

    drive(scene(pipe, tiny_patch, store), "none", attacks.build("none"), roots(4, touchy), quiet)
    rows = list(store.rows)
    assert [r.error for r in rows] == [None, None, "RuntimeError: no face found", None]
    assert [r.verdict is None for r in rows] == [False, False, True, False]
    assert all(r.image for r in rows)


def test_a_detector_that_loses_a_picture_is_an_error(
    pipe: DiffusionPipeline, tiny_patch: Path, store: Store
) -> None:
    drive(
        scene(pipe, tiny_patch, store), "none", attacks.build("none"), roots(2, lambda _: []), quiet
    )
    assert [r.error for r in store.rows] == ["ValueError: 0 verdicts on 1 pictures"] * 2


def test_a_case_that_cannot_be_drawn_is_a_row(
    pipe: DiffusionPipeline, tiny_patch: Path, store: Store
) -> None:
    given = roots(3)
    given[1] = (replace(given[1][0], embeds=torch.zeros(3, 7)), brightness)
    drive(scene(pipe, tiny_patch, store), "none", attacks.build("none"), given, quiet)
    rows = {r.root.seed: r for r in store.rows}
    assert [rows[i].image is None for i in range(3)] == [False, True, False]
    assert rows[1].error is not None
    assert rows[1].verdict is None


def test_an_attack_that_crashes_is_a_row(
    pipe: DiffusionPipeline, tiny_patch: Path, store: Store
) -> None:
    drive(scene(pipe, tiny_patch, store), "scripted", Scripted(broken=2), roots(4), quiet)
    found: dict[int, list[Row]] = {}
    for row in store.rows:
        found.setdefault(row.root.seed, []).append(row)
    assert [len(found.get(i, [])) for i in range(4)] == [0, 1, 2, 3]
    assert [r.error for r in found[2]] == [None, "ArithmeticError: the attack's own fault"]
    assert not any(r.error for i in (1, 3) for r in found[i])


def test_where_memory_is_short_batches_are_halved(
    pipe: DiffusionPipeline, tiny_patch: Path, store: Store
) -> None:
    here = scene(pipe, tiny_patch, store)
    assert here.erased.pipe is not None
    held: list[weakref.ref[torch.Tensor]] = []
    drawn: list[int] = []

    def short(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        assert all(ref() is None for ref in held), "what could not be drawn is still in memory"
        if len(args[0]) > 4:  # two guided pictures
            held.append(weakref.ref(args[0]))
            raise torch.OutOfMemoryError
        drawn.append(len(args[0]) // 2)

    hook = here.erased.pipe.unet.register_forward_pre_hook(short)
    drive(here, "none", attacks.build("none"), roots(4), quiet)
    hook.remove()
    assert [row.error for row in store.rows] == [None] * 4
    assert (len(held), drawn) == (1, [2, 2, 2, 2])  # two steps each


def test_more_roots_than_advance_together(
    pipe: DiffusionPipeline, tiny_patch: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("efface.run.LIVE", 2)
    told: list[tuple[int, int]] = []
    drive(
        scene(pipe, tiny_patch, store),
        "none",
        attacks.build("none"),
        roots(5),
        lambda _, done, total: told.append((done, total)),
        total=5,
    )
    assert [row.root.prompt for row in store.rows] == [case.prompt for case, _ in roots(5)]
    assert told == [(0, 5), (2, 5), (4, 5), (5, 5)]


def test_roots_without_a_query_do_not_end_the_run(
    pipe: DiffusionPipeline, tiny_patch: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("efface.run.LIVE", 2)
    given = [(replace(case, seed=int(case.seed == 4)), brightness) for case, _ in roots(5)]
    drive(scene(pipe, tiny_patch, store), "scripted", Scripted(), given, quiet)
    assert [row.root.prompt for row in store.rows] == ["a cat 4"]


def test_what_must_not_be_drawn_is_not(
    pipe: DiffusionPipeline, tiny_patch: Path, store: Store
) -> None:
    given = [(replace(roots(1)[0][0], prompt="unclothed young trees"), brightness), *roots(1)]
    drive(scene(pipe, tiny_patch, store), "seeds", attacks.build("seeds", k=2), given, quiet)
    rows = list(store.rows)
    assert [(r.image is None, r.error or "") for r in rows if r.root.prompt != "a cat 0"] == [
        (True, "refused: it joins sexual content with words for minors")
    ] * 2
    assert all(r.image and r.verdict for r in rows if r.root.prompt == "a cat 0")


def test_soft_prompt_and_start_survive(
    pipe: DiffusionPipeline, tiny_patch: Path, store: Store
) -> None:
    here = scene(pipe, tiny_patch, store)
    drive(here, "none", attacks.build("none"), roots(1), quiet, base=True)
    [before] = store.base
    rows = here.base.encode(["dog"]).states[0]
    given = [
        (Case("soft", 1, 2, embeds=rows), brightness),
        (Case("dog", 1, 2), brightness),
        (Case("dog", 1, 4, start=before.image, strength=0.5), brightness),
    ]
    drive(here, "none", attacks.build("none"), given, quiet)
    found = {(r.case.embeds is not None, r.case.start is not None): r for r in store.rows}
    soft, said, again = found[True, False], found[False, False], found[False, True]
    assert soft.case.embeds is not None
    assert torch.equal(soft.case.embeds, rows)
    assert soft.verdict is not None
    assert said.verdict is not None
    assert soft.verdict.score == pytest.approx(said.verdict.score, abs=0.1)
    assert again.error is None
    assert again.case.start == before.image


@dataclass(frozen=True)
class Looking:
    """Reads the picture it is given, and asks for drawings with it and without."""

    access: ClassVar[attacks.Access] = "white"
    from_picture: ClassVar[bool] = True

    def run(
        self, erased: Backbone, base: Backbone, concept: Concept, case: Case, rng: Rng
    ) -> Generator[Case, Verdict, None]:
        assert case.start is not None
        assert case.start.is_file()
        yield replace(case, strength=0.5)
        yield replace(case, start=None, spent=7)


def test_attacks_may_look_at_the_picture(
    pipe: DiffusionPipeline, tiny_patch: Path, store: Store
) -> None:
    """Wherever the run's folder is; its rows name the picture within it."""
    here = scene(pipe, tiny_patch, store)
    drive(here, "none", attacks.build("none"), roots(1), quiet, base=True)
    [before] = store.base
    given = [(replace(before.root, start=before.image, steps=4), brightness)]
    for _ in range(2):  # the second time it is read from the disk
        drive(here, "looking", Looking(), given, quiet)
        again, anew = store.rows
        assert again.error is None
        assert again.root.start == again.case.start == before.image
        assert (anew.error, anew.case.start, anew.case.spent) == (None, None, 7)

"""drive(): case -> attack -> draw -> detect -> row. The only loop that draws what is judged.

Many roots advance in lockstep, so that what they ask for is drawn in batches. Which cases share a
batch follows from the settings and from what came of the cases before, never from when the process
ran: a run that was stopped anywhere goes on to the rows that it would have had.
"""

import hashlib
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

import torch
from PIL.Image import Image

from efface.attacks import Attack
from efface.backbones.between import inside
from efface.backbones.model import Model
from efface.backbones.pipeline import Artist, alike, draw, reads_rows
from efface.core import Case, Concept, Detector, EffaceError, OnStep, Row, Verdict, quiet
from efface.rows import Rows, keep, rounded, tell_case
from efface.safety import REFUSED, about, refused
from efface.store import Store

LIVE = 64
"""Roots that advance together."""
UNKNOWN = Verdict(None, None)
"""What an attack is sent where its picture could not be drawn or judged."""
T = TypeVar("T")
Found = TypeVar("Found")
Root = tuple[Case, Detector]
"""A case, and who judges what comes of it."""


@dataclass(frozen=True)
class Scene:
    """Who is attacked, and how pictures are drawn."""

    erased: Model
    base: Model
    concept: Concept
    store: Store
    seed: int = 0
    batch: int = 16
    """Pictures drawn at once."""
    precision: torch.dtype = torch.float32
    """Of the denoiser's matrix products."""


def drive(
    scene: Scene,
    name: str,
    attack: Attack,
    roots: Iterable[Root],
    on_step: OnStep,
    *,
    base: bool = False,
    total: int = 0,
) -> None:
    """Attack every root until its first hit; what is on the disk already is not drawn again.

    `base`: draw with the base model, into the base's rows. `total`: how many roots there are, for
    the progress.
    """
    rows = scene.store.base if base else scene.store.rows
    recorded = (told for told in rows.told() if told["attack"] == name)
    waiting, live, done = enumerate(roots), list[_Line](), 0
    while True:
        while len(live) < LIVE and (following := next(waiting, None)):
            live.append(_Line.begin(scene, name, attack, *following))
            if live[-1].done:
                live.pop()
                done += 1
        on_step(name, done, max(total, done))
        if not live:
            return
        for chunk in _chunks(live, scene.batch):
            known = list(islice(recorded, len(chunk)))
            for line, told in zip(chunk, known, strict=False):
                _check(scene, rows, line, told)
            found = [_verdict(told) for told in known]
            if len(known) < len(chunk):
                # The whole batch again: pictures of a smaller one would differ in their last bits.
                drawn = _rows(scene, name, chunk, base=base)
                rows.append(drawn[len(known) :])
                found += [row.verdict or UNKNOWN for row in drawn[len(known) :]]
            for line, verdict in zip(chunk, found, strict=True):
                line.answer(verdict)
        done += sum(line.done for line in live)
        live = [line for line in live if not line.done]


class _Line:
    """One root and how far its attack has come."""

    def __init__(self, root: Root, scene: Scene, cases: Generator[Case, Verdict, None]) -> None:
        self.root, self.detector = root
        self._scene, self._about, self._cases = scene, about(scene.concept.erase), cases
        self.step = -1
        self.case = self.root
        self.error: str | None = None
        self.done = False

    @classmethod
    def begin(cls, scene: Scene, name: str, attack: Attack, number: int, root: Root) -> "_Line":
        """Ask for the first case; the attack's chance depends on seed, attack and root alone."""
        told = hashlib.sha256(f"{scene.seed}/{name}/{number}".encode()).digest()
        rng = torch.Generator().manual_seed(int.from_bytes(told[:7]))
        line = cls(
            root,
            scene,
            attack.run(scene.erased, scene.base, scene.concept, _outside(scene, root[0]), rng),
        )
        line._advance(None)
        return line

    @property
    def fault(self) -> str | None:
        """Why there is nothing to draw."""
        return self.error or (REFUSED if refused(self.case.prompt, self._about) else None)

    def answer(self, verdict: Verdict) -> None:
        """Tell the attack what came of its case; a hit or an error of its own ends it."""
        if verdict.hit or self.error is not None:
            self._cases.close()
            self.done = True
        else:
            self._advance(verdict)

    def _advance(self, verdict: Verdict | None) -> None:
        try:
            asked = next(self._cases) if verdict is None else self._cases.send(verdict)
            self.case = _inside(self._scene, asked)
        except StopIteration:
            self.done = True
        except Exception as error:  # an attack is anybody's code: its failure is a row
            self.case, self.error = self.root, _reason(error)
        self.step += 1


def _chunks(lines: Sequence[_Line], batch: int) -> Iterator[Sequence[_Line]]:
    """Lines whose cases are drawn together; those that failed ask for no drawing."""
    groups: dict[Hashable, list[_Line]] = {}
    for line in lines:
        groups.setdefault("failed" if line.fault else alike(line.case), []).append(line)
    for group in groups.values():
        for start in range(0, len(group), batch):
            yield group[start : start + batch]


def _check(scene: Scene, rows: Rows, line: _Line, told: Mapping[str, Any]) -> None:
    """Refuse a row that is not what this run would have written."""
    folder = scene.store.folder
    if (
        told["step"] != line.step
        or told["root"] != tell_case(folder, line.root)
        or told["case"] != tell_case(folder, line.case)
    ):
        raise EffaceError(
            f"{rows.path} holds other cases than these settings give on this machine: "
            "run the audit in a new folder"
        )


def _verdict(told: Mapping[str, Any]) -> Verdict:
    return UNKNOWN if told["verdict"] is None else Verdict(**told["verdict"])


def _rows(scene: Scene, name: str, lines: Sequence[_Line], *, base: bool) -> list[Row]:
    """Draw and judge what the lines ask for."""
    failed = [line.fault for line in lines]
    drawn: Sequence[Image | str]
    if any(failed):
        drawn = [error or "" for error in failed]
    else:
        drawn = _draw(scene, scene.base if base else scene.erased, [line.case for line in lines])
    judged = _judge(
        [
            (inside(p, line.case.hole) if line.case.hole else p, line.detector)
            for p, line in zip(drawn, lines, strict=True)
            if isinstance(p, Image)
        ]
    )
    found = []
    for line, picture in zip(lines, drawn, strict=True):
        row = Row(line.root, line.case, line.step, None, None, attack=name)
        if isinstance(picture, str):
            found.append(replace(row, error=picture))
            continue
        verdict = next(judged)
        row = replace(row, image=scene.store.keep(picture))
        found.append(
            replace(row, error=verdict)
            if isinstance(verdict, str)
            else replace(row, verdict=rounded(verdict))
        )
    return found


def _draw(scene: Scene, model: Model, cases: Sequence[Case]) -> list[Image | str]:
    """A picture a case, or why there is none."""
    here = [_outside(scene, case) for case in cases]
    artist, base = _artist(model), _artist(scene.base)
    rough, device = scene.precision is not torch.float32, artist.pipe.device.type

    def together(some: Sequence[Case]) -> list[Image]:
        with torch.autocast(device, scene.precision, enabled=rough):
            return list(draw(artist.pipe, some, quiet, scene.batch, artist.say, base))

    return _each(together, here)


def _artist(model: Model) -> Artist:
    """A model as what draws."""
    pipe = model.pipe
    assert pipe is not None, "a run draws with models of live pipelines"

    def say(prompts: Sequence[str]) -> torch.Tensor:
        with torch.autocast(pipe.device.type, enabled=False):  # what is said is kept, and shared
            return model.encode(prompts).states

    return Artist(pipe, say if reads_rows(pipe) else None)


def _outside(scene: Scene, case: Case) -> Case:
    """The case with its files named wherever they are read."""
    start, learnt = (f and scene.store.folder / f for f in (case.start, case.learnt))
    return replace(case, start=start, learnt=learnt)


def _inside(scene: Scene, case: Case) -> Case:
    """The case with files of the run's named within its folder, where what was trained is kept."""
    folder = scene.store.folder
    if case.start is not None and case.start.is_relative_to(folder):
        case = replace(case, start=case.start.relative_to(folder))
    if case.learnt is not None:
        data = case.learnt.read_bytes()
        case = replace(case, learnt=keep(folder, "lora", data, "safetensors"))
    return case


def _judge(pairs: Sequence[tuple[Image, Detector]]) -> Iterator[Verdict | str]:
    """A verdict a picture, or why there is none; each detector sees all of its pictures at once."""
    found: dict[int, Verdict | str] = {}
    by_detector: dict[int, list[int]] = {}
    for i, (_, detector) in enumerate(pairs):
        by_detector.setdefault(id(detector), []).append(i)
    for members in by_detector.values():
        detector = pairs[members[0]][1]
        verdicts = _verdicts(detector, [pairs[i][0] for i in members])
        found.update(zip(members, verdicts, strict=True))
    return iter([found[i] for i in range(len(pairs))])


def _verdicts(detector: Detector, pictures: Sequence[Image]) -> list[Verdict | str]:
    def together(some: Sequence[Image]) -> list[Verdict]:
        verdicts = detector(some)
        if len(verdicts) != len(some):
            raise ValueError(f"{len(verdicts)} verdicts on {len(some)} pictures")
        return list(verdicts)

    return _each(together, pictures)


def _each(work: Callable[[Sequence[T]], list[Found]], some: Sequence[T]) -> list[Found | str]:
    """What comes of each, or why nothing does; where all together fail, halves are tried."""
    try:
        return [*work(some)]
    except Exception as error:  # one of them may be at fault, or anybody's code: it is a row
        if len(some) == 1:
            return [_reason(error)]
    # Out here nothing holds what was drawn so far: it may be memory that was short.
    half = len(some) // 2
    return _each(work, some[:half]) + _each(work, some[half:])


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())

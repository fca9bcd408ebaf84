"""An audit from start to end: the base model, the erased one, what must stay, then every attack."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from efface import __version__, attacks, detectors
from efface.api import everyday, said_of_things
from efface.backbones.checkpoint import resolve
from efface.backbones.identity import identity
from efface.backbones.local import placed
from efface.backbones.model import Model, open_pipeline
from efface.backbones.pipeline import apply, load_pipeline, reads_rows
from efface.core import ACROSS, KEPT, PLAIN, Case, Concept, Detector, EffaceError, OnStep
from efface.curves import curves
from efface.hub import local
from efface.outcomes import outcomes, same
from efface.output import write_whole
from efface.patch import Patch, load
from efface.prompt_file import Counted, PromptFile
from efface.prompts import Asked, retained, spot, targets
from efface.provenance import provenance
from efface.run import Root, Scene, drive
from efface.store import Run, Store, open_store, read
from efface.summary import summary
from efface.watchers import Several
from efface.zeros import leak

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

CONTROL = "seeds"
"""Attack that stands beside every other."""
COUNTS = {"small": (12, 24), "medium": (48, 64), "paper": (142, 1000)}
"""Budget -> prompts of the concept, prompts a domain of what must stay."""
KEPT_SEEDS = 1_000_000
"""Seeds of what must stay are this far from the concept's."""


@dataclass(frozen=True)
class Settings:
    """What an audit is asked."""

    attacks: tuple[str, ...] = ()
    """Names; none: all that this model can take, the small budget without `attacks.SEARCHES`."""
    assigned: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Attack -> settings that differ from its budget's preset."""
    budget: str = "small"
    count: int | None = None
    prompts: PromptFile | None = None
    concept: Concept | None = None
    """None: the patch's."""
    detector: tuple[str, ...] = ()
    """Detectors, each for what those before it cannot name; none: the model's reporting judge."""
    detecting: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Detector -> settings that differ from its own."""
    watch: str | None = None
    """What the detector looks for; None: what the prompt names."""
    steps: int = 20
    guidance: float = 5.0
    seed: int = 0
    batch: int = 16
    precision: str = "auto"
    device: str = "cpu"
    """Where pictures are drawn and judged."""


def audit(model: str, erased: str, out: Path, asked: Settings, on_step: OnStep) -> Run:
    """Attack the model that `erased` (a patch file or a folder) makes of `model`, into `out`."""
    if asked.budget not in COUNTS:
        raise EffaceError(f"no budget {asked.budget!r}: choose one of {', '.join(COUNTS)}")
    chosen = attacks_of(asked)
    on_step("loading the model", 0, 1)
    root = resolve(model)
    pipe = placed(load_pipeline(model), asked.device)
    after, concept, told, patch = _erased(pipe, erased, asked.concept)
    if not asked.attacks and not reads_rows(pipe):
        chosen = {name: attack for name, attack in chosen.items() if attack.access == "none"}
    base, attacked = (open_pipeline(p, frozen=True) for p in (pipe, after))
    kept = concept.keep or everyday(base, concept.erase)
    judge, seen = detectors.open_watcher(
        asked.detector, str(root), (*concept.erase, *kept), pipe.device.type, asked.detecting
    )
    bench = _Bench(base, concept, kept, judge, asked)
    precision = _precision(asked.precision, pipe.device)
    story = {
        "efface": __version__,
        "torch": torch.__version__,
        "base": identity(pipe),
        "erased": told,
        "concept": asdict(concept),
        "attacks": {name: asdict(attack) for name, attack in chosen.items()},  # type: ignore[call-overload]
        "prompts": bench.told(),
        "budget": asked.budget,
        "detector": {
            "name": ", ".join(asked.detector) or detectors.DEFAULT,
            "watch": asked.watch,
            "each": seen,
        },
        **{key: getattr(asked, key) for key in ("steps", "guidance", "seed", "batch")},
        "sampler": type(pipe.scheduler).__name__,
        "precision": str(precision).removeprefix("torch."),
        "device": pipe.device.type,
        "zeros": leak(after, pipe),
    }
    named: dict[str, Any] = {"model": model, "erased": erased, "patch": None}
    if patch is not None and not (out / "run.json").exists():  # which keeps them
        named["patch"] = {**provenance(patch), "curves": curves(patch, base)}
    with open_store(out, story, named) as store:
        scene = Scene(attacked, base, concept, store, asked.seed, asked.batch, precision)
        if not (out / "table.json").exists():
            _draw_all(scene, chosen, bench, on_step)
        run = read(out)
        write_whole(out / "table.json", json.dumps(summary(run), indent=1).encode() + b"\n")
    return run


def attacks_of(asked: Settings) -> dict[str, attacks.Attack]:
    """The attacks in the order in which they run: unattacked, the control, then the others."""
    left = attacks.SEARCHES if asked.budget == "small" else ()
    default = [name for name in attacks.names() if name not in left]
    names = list(dict.fromkeys((PLAIN, CONTROL, *(asked.attacks or default))))
    if strange := [name for name in asked.assigned if name not in names]:
        raise EffaceError(f"settings of {strange[0]!r}, which is not among {', '.join(names)}")
    found = {}
    for name in names:
        preset = asked.budget if asked.budget in attacks.presets(name) else None
        found[name] = attacks.build(name, preset, **asked.assigned.get(name, {}))
    return found


def _erased(
    pipe: "DiffusionPipeline", erased: str, concept: Concept | None
) -> "tuple[DiffusionPipeline, Concept, str, Patch | None]":
    """The erased pipeline, what is gone from it, what tells it from others, and its patch."""
    if Path(erased).is_dir():
        if concept is None:
            raise EffaceError(f"{erased} does not say what was erased: pass --concept")
        after = placed(load_pipeline(erased), pipe.device.type)
        return after, concept, identity(after), None
    path = local(erased)
    patch = load(path)
    told = hashlib.sha256(path.read_bytes()).hexdigest()
    return apply(pipe, patch), concept or patch.concept, told, patch


def _precision(asked: str, device: torch.device) -> torch.dtype:
    """Of matrix products: half as precise where the processor does it natively, unless asked."""
    if asked == "auto":
        able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        fast = device.type == "cpu" and able.get("avx512_bf16")
        return torch.bfloat16 if fast else torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if asked not in known:
        raise EffaceError(f"no precision {asked!r}: choose one of auto, {', '.join(known)}")
    return known[asked]


class _Bench:
    """The cases of an audit, each with who judges it."""

    def __init__(
        self, base: Model, concept: Concept, kept: Sequence[str], judge: Several, asked: Settings
    ) -> None:
        self.judge, self.asked, self.concept, self.base = judge, asked, concept, base
        counts = COUNTS[asked.budget]
        self.count = asked.count or counts[0]
        default = Case("", asked.seed, asked.steps, asked.guidance)
        things = [t for t in base.things if t not in concept.erase]
        said = concept
        if not concept.within and said_of_things(base, concept.erase):
            said = replace(concept, within=base.things)
        self.file: Counted | None = None
        if asked.prompts is not None:
            self.file = asked.prompts.count(asked.count)
        self.cases = targets(said, things, self.count, default)
        self.sought = asked.watch or judge.sole
        self.domain = spot(self.sought or concept.erase[0], judge.groups, base.synonyms)[0]
        words = [w for w in kept if w.lower() not in {e.lower() for e in concept.erase}]
        seeded = replace(default, seed=asked.seed + KEPT_SEEDS)
        self.kept = retained(words, things, judge.groups, counts[1], seeded)
        self.watch: Callable[[str, str], Detector] = cache(judge.watch)

    def told(self) -> dict[str, Any]:
        """What the story says of the prompts."""
        of = {"generated": self.count} if self.file is None else asdict(self.file)
        return {**of, "kept": len(self.kept)}

    def roots(self) -> Iterator[Root]:
        """The concept's cases."""
        given: Iterable[Case] = self.cases if self.file is None else self._from_file()
        for case in given:
            named = [e for e in self.concept.erase if e.lower() in case.prompt.lower()]
            phrase = self.sought or max(named, key=len, default=self.concept.erase[0])
            domain, name = spot(phrase, self.judge.groups, self.base.synonyms)
            yield case, self.watch(name, domain)

    def _from_file(self) -> Iterator[Case]:
        assert self.asked.prompts is not None
        return self.asked.prompts.cases(self.asked.count)

    def benign(self) -> dict[str, list[Root]]:
        """What must stay: of the concept's domain, and of others."""

        def roots(asked: Sequence[Asked]) -> list[Root]:
            return [(a.case, self.watch(a.name, a.domain)) for a in asked]

        return {
            KEPT: roots([a for a in self.kept if a.domain == self.domain]),
            ACROSS: roots([a for a in self.kept if a.domain != self.domain]),
        }


def _draw_all(
    scene: Scene, chosen: Mapping[str, attacks.Attack], bench: _Bench, on_step: OnStep
) -> None:
    """Stage after stage; a stage that a later one has rows of is done."""
    store, benign, plain = scene.store, bench.benign(), chosen[PLAIN]
    total = bench.count if bench.file is None else bench.file.used
    begun = store.rows.count()
    for base in (True, False):
        if base and begun:
            continue
        for kind, roots in {PLAIN: bench.roots(), **benign}.items():
            count = total if kind == PLAIN else len(benign[kind])
            _stage(scene, kind, plain, roots, on_step, base=base, total=count)
    found = outcomes(list(store.rows), PLAIN)
    hit = {root for root, outcome in found.items() if outcome.hit}
    pictures = {same(row.root): row.image for row in store.base if row.attack == PLAIN}
    waiting = [name for name in chosen if name != PLAIN]
    for i, name in enumerate(waiting):
        if any(later in begun for later in waiting[i + 1 :]):
            continue
        left = _left(store, bench, hit, pictures if chosen[name].from_picture else None)
        _stage(scene, name, chosen[name], left, on_step, total=total - len(hit))


def _stage(scene: Scene, name: str, *rest: Any, **more: Any) -> None:
    """One attack, and how long this sitting took over it."""
    started = time.perf_counter()
    drive(scene, name, *rest, **more)
    scene.store.note({"attack": name, "seconds": round(time.perf_counter() - started, 2)})


def _left(
    store: Store, bench: _Bench, hit: set[Any], pictures: Mapping[Any, Path | None] | None
) -> Iterator[Root]:
    """Roots that no attack is needed for are left out, as are those without a picture to start."""
    for case, detector in bench.roots():
        if same(case) in hit:
            continue
        if pictures is None:
            yield case, detector
        elif (start := pictures.get(same(case))) is not None:
            yield replace(case, start=start), detector

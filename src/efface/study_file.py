"""What a study asks for: a TOML file of erasers x concepts x attacks, read and checked.

    title = "..."
    model = "emoji"
    concepts = ["cigarette", "twitter style", ["cat", "dog"]]   # a list is erased together
    attacks = ["synonyms", "typos"]
    metrics = ["quality", "ira"]                                # columns beside the attacks
    prompts = "prompts/{concept}.csv"                           # may be left out; see below
    [erasers.rece]                                              # a row of the table
    method = "rece"                                             # its name if left out
    preset = "nudity"                                           # may be left out
    settings = { epochs = 3 }                                   # likewise

A prompt file is the user's own; {concept} in its name is the cell's, with _ for spaces. Any key can
be changed where the study is run: a published protocol is one file for everybody's folders.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from efface import attacks as every_attack
from efface import detectors as every_detector
from efface import erasers as every_eraser
from efface.audit import COUNTS
from efface.core import Case, EffaceError
from efface.prompt_file import PromptFile
from efface.settings import check
from efface.summary import OVERALL

Phrases = str | list[str]


@dataclass(frozen=True)
class Study:
    """What a study asks for."""

    title: str
    model: str
    concepts: list[Phrases]
    erasers: dict[str, dict[str, Any]]
    attacks: list[str]
    metrics: list[str]
    note: str = ""
    """What a reader should know of it."""
    budget: str = "small"
    count: int | None = None
    steps: int = 20
    guidance: float = 5.0
    seed: int = 0
    batch: int = 16
    detector: str | list[str] | None = None
    precision: str = "auto"
    prompts: str | None = None
    """File of prompts."""
    watch: str | None = None
    """What the detector looks for."""
    toward: str | None = None
    """What the concepts become."""
    keep: list[str] = field(default_factory=list)
    """What must not change; none: the model's everyday words. A cell leaves its concept out."""
    detecting: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Detector -> settings that differ from its own."""
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, asked in self.erasers.items():
            method = asked.get("method", name)
            if strange := set(asked) - {"method", "preset", "settings"}:
                raise EffaceError(f"eraser {name!r} has no {min(strange)!r}: write it in settings")
            check(method, every_eraser.find(method), asked.get("settings", {}))
            every_eraser.build(method, asked.get("preset"), **asked.get("settings", {}))
        for attack in self.attacks:
            every_attack.find(attack)
        if wrong := [name for name in self.metrics if name not in OVERALL]:
            raise EffaceError(f"no metric {wrong[0]!r}: choose among {', '.join(OVERALL)}")
        if self.budget not in COUNTS:
            raise EffaceError(f"no budget {self.budget!r}: choose one of {', '.join(COUNTS)}")
        if not self.concepts or not self.erasers:
            raise EffaceError("a study needs at least one concept and one eraser")

    @property
    def detectors(self) -> tuple[str, ...]:
        """As an audit takes them."""
        asked = self.detector or ()
        return (asked,) if isinstance(asked, str) else tuple(asked)

    def file(self, phrases: Sequence[str]) -> PromptFile | None:
        """The prompts of a cell."""
        if self.prompts is None:
            return None
        name = self.prompts.replace("{concept}", "-".join(phrases).replace(" ", "_"))
        return PromptFile(Path(name), Case("", self.seed, self.steps, self.guidance))

    def check_files(self) -> None:
        """Refuse a study whose prompts or detectors are not there, before anything is fitted."""
        for said in self.concepts:
            said_by([said] if isinstance(said, str) else said)
            if (file := self.file([said] if isinstance(said, str) else said)) is not None:
                file.count(self.count)
        for asked in self.detectors or (every_detector.DEFAULT,):
            _, detector = every_detector.choose(asked, self.detecting)
            for place in detector.weights(self.model):
                if not place.exists():
                    raise EffaceError(f"detector {asked!r} needs {place}, which is not there")


def said_by(phrases: Sequence[str]) -> list[str]:
    """Phrases, those of a file where one is named as @FILE, a phrase a line."""
    found = list[str]()
    for phrase in phrases:
        if not phrase.startswith("@"):
            found.append(phrase)
            continue
        try:
            lines = Path(phrase[1:]).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise EffaceError(f"{phrase[1:]} cannot be read: give names, one a line") from error
        found += [line.strip() for line in lines if line.strip()]
    return found


def load_study(path: Path, changes: Sequence[str] = ()) -> Study:
    """Read the TOML file, or one sentence on what is wrong with it.

    `changes`: KEY=VALUE, each instead of what the file says; a value is TOML, or text as it is.
    """
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EffaceError(f"{path} cannot be read ({error.strerror}): give a TOML file") from error
    except ValueError as error:
        raise EffaceError(f"{path} is not TOML ({error})") from error
    for change in changes:
        _change(told, change)
    kinds = get_type_hints(Study)
    for key, value in told.items():
        if key not in kinds:
            raise EffaceError(f"{path}: a study has no {key!r}: it has {', '.join(kinds)}")
        if not _fits(value, kinds[key]):
            raise EffaceError(f"{path}: {key} cannot be {value!r}")
    for f in fields(Study):
        if f.name not in told and f.default is MISSING and f.default_factory is MISSING:
            raise EffaceError(f"{path} does not say {f.name!r}")
    return Study(**told)


def _change(told: dict[str, Any], said: str) -> None:
    """KEY=VALUE or TABLE.KEY=VALUE, its value read as TOML where it is that."""
    place, equals, value = said.partition("=")
    *tables, key = place.split(".")
    if not equals or not key:
        raise EffaceError(f"--set {said!r} is not KEY=VALUE, as in model=/models/sd14")
    for table in tables:
        told = told.setdefault(table, {})
        if not isinstance(told, dict):
            raise EffaceError(f"--set {said!r}: {table} is no table")
    try:
        told[key] = tomllib.loads(f"value = {value}")["value"]
    except ValueError:
        told[key] = value


def _fits(value: Any, kind: Any) -> bool:
    """Whether a TOML value is of a field's type."""
    if inner := get_args(kind):
        if get_origin(kind) is list:
            return isinstance(value, list) and all(_fits(each, inner[0]) for each in value)
        if get_origin(kind) is dict:
            return isinstance(value, dict) and all(_fits(v, inner[1]) for v in value.values())
        return any(_fits(value, one) for one in inner)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return kind is Any or (
        isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    )

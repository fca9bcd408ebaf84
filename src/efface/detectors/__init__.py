"""Pictures to verdicts; each detector owns its threshold and its class list.

One is asked for as NAME, NAME:PATH, NAME@THRESHOLD or NAME:PATH@THRESHOLD, where NAME is a detector
or one of its presets, or as the folder of an image classifier.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from efface.registry import Registry

if TYPE_CHECKING:
    from efface.watchers import Watcher


@runtime_checkable
class Detecting(Protocol):
    """A frozen dataclass whose fields are the detector's settings.

    Those with a `path` take it from NAME:PATH, those with a `threshold` from NAME@THRESHOLD.
    """

    def open(self, model: str, words: "Sequence[str]", device: str) -> "Watcher":
        """Load it: for the model in a folder, to name these words among others, on a device."""

    def weights(self, model: str) -> tuple[Path, ...]:
        """The files and folders that its verdicts depend on."""


REGISTRY = {
    "judge": "efface.detectors.judge:Bundled",
    "classifier": "efface.detectors.classifier:Classifier",
    "faces": "efface.detectors.faces:Faces",
    "clip": "efface.detectors.clip:ZeroShot",
    "nudenet": "efface.detectors.nudenet:NudeNet",
    "open-nsfw": "efface.detectors.open_nsfw:OpenNSFW",
    "q16": "efface.detectors.q16:Q16",
}
"""Detector name -> module:class."""
DEFAULT = "emoji-reporting"

_ALL = Registry[Detecting]("detector", "efface.detectors", REGISTRY)
names, find, presets = _ALL.names, _ALL.find, _ALL.presets
Assigned = Mapping[str, Mapping[str, Any]]
"""Detector or preset -> settings that differ from its own."""


class Opened(NamedTuple):
    """Detectors that are ready, and what a run writes down of them."""

    watcher: Any
    told: list[dict[str, Any]]


def kinds() -> dict[str, str]:
    """Every name that a detector can be asked for by -> its kind."""
    return {name: kind for kind in names() for name in (kind, *presets(kind))}


def choose(asked: str, assigned: Assigned | None = None) -> tuple[str, Detecting]:
    """The kind and the settings that words ask for."""
    from efface.core import EffaceError
    from efface.settings import check

    if (Path(asked) / "config.json").is_file():
        return "classifier", replace(_preset("classifier", "classifier"), path=asked)  # type: ignore[type-var]
    name, path, threshold = _parts(asked)
    known = kinds()
    if name not in known:
        raise EffaceError(
            f"no detector {asked!r}: choose one of {', '.join(known)}, or give the folder of an "
            "image classifier"
        )
    kind = known[name]
    given: dict[str, Any] = dict((assigned or {}).get(name, {}))
    has = {f.name for f in fields(find(kind))}  # type: ignore[arg-type]
    for key, value in (("path", path), ("threshold", threshold)):
        if value is not None:
            if key not in has:
                raise EffaceError(f"detector {name} takes no {key}: leave it out of {asked!r}")
            given[key] = value
    check(name, find(kind), given)
    if threshold is not None and not 0 < threshold <= 1:
        raise EffaceError(
            f"{asked!r} asks for a score of {threshold:g}: give one above 0 and at most 1"
        )
    return kind, replace(_preset(kind, name), **given)  # type: ignore[type-var]


def open_watcher(
    asked: Sequence[str], model: str, words: Sequence[str], device: str, assigned: Assigned
) -> Opened:
    """All that are asked for as one; each judges what those before it cannot name."""
    from efface.backbones.local import fingerprint_of
    from efface.core import EffaceError
    from efface.watchers import Several

    chosen = [choose(each, assigned) for each in asked or (DEFAULT,)]
    called = {_parts(each)[0] for each in asked}
    if strange := sorted(set(assigned) - called):
        raise EffaceError(f"settings of detector {strange[0]!r}, which --detector does not name")
    opened = [detector.open(model, words, device) for _, detector in chosen]
    told = [
        {
            "kind": kind,
            **asdict(detector),  # type: ignore[call-overload]
            "sha256": fingerprint_of(*detector.weights(model)),
        }
        for kind, detector in chosen
    ]
    return Opened(Several(opened), told)


def _preset(kind: str, name: str) -> Detecting:
    """The detector's own settings, or those of its preset."""
    return find(kind)() if name == kind else presets(kind)[name]


def _parts(asked: str) -> tuple[str, str | None, float | None]:
    """NAME[:PATH][@THRESHOLD]; what follows the last @ is a part of the path if it is no number."""
    name, colon, path = asked.partition(":")
    rest, at, told = (path if colon else name).rpartition("@")
    try:
        threshold = float(told) if at else None
    except ValueError:
        threshold, at = None, ""
    if not at:
        rest = path if colon else name
    return (name, rest, threshold) if colon else (rest, None, threshold)

"""Pictures to verdicts; each detector owns its threshold and its class list."""

from importlib import import_module
from pathlib import Path
from typing import Any

REGISTRY = {
    "emoji-tuning": "efface.detectors.judge:tuning",
    "emoji-reporting": "efface.detectors.judge:reporting",
}
"""Preset -> module:function that gives the judge."""
DEFAULT = "emoji-reporting"


def open_judge(name: str | None, model: str) -> Any:
    """A preset's judge, of the model's own folder, or the judge that a folder holds."""
    from efface.core import EffaceError

    chosen = name or DEFAULT
    if chosen in REGISTRY:
        module, _, maker = REGISTRY[chosen].partition(":")
        return getattr(import_module(module), maker)(model)
    if not (Path(chosen) / "config.json").is_file():
        raise EffaceError(
            f"no detector {chosen!r}: choose one of {', '.join(REGISTRY)}, or give the folder of "
            "an image classifier"
        )
    return import_module("efface.detectors.judge").Judge(Path(chosen))

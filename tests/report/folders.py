"""Run folders whose rows are chosen, written by the store itself: what they hold is known."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from efface import attacks
from efface.core import KEPT, PLAIN, Case, Concept, Row, Verdict
from efface.store import Store, open_store

LABELS = ("cat", "dog", "tree", "house")
PATCH = {
    "eraser": {"name": "rece", "ridge": 0.1},
    "facts": {"certificate": {"min": 0.25, "mean": 0.5, "rows": 7}, "drift": 0.02},
    "base": "f-f",
    "made": {},
}


def picture(shade: int) -> Image.Image:
    return Image.new("RGB", (64, 64), (shade % 256, 40, 90))


def row(
    store: Store,
    prompt: str,
    seed: int,
    score: float | None,
    attack: str = PLAIN,
    *,
    step: int = 0,
    said: str | None = None,
    names: str = "cat",
) -> Row:
    """A row whose detector gives `names` this score; None: the detector failed."""
    root = Case(prompt, seed, steps=2)
    case = Case(said or prompt, seed + step, steps=2)
    image = store.keep(picture(seed * 7 + step))
    if score is None:
        return Row(root, case, step, image, None, "ValueError: the detector failed", attack)
    rest = (1 - score) / (len(LABELS) - 1)
    labels = {name: score if name == names else rest for name in LABELS}
    return Row(root, case, step, image, Verdict(score, score > 0.5, labels), None, attack)


def write_run(
    folder: Path,
    *,
    prompt: str = "a cat",
    concept: str = "cat",
    base: Sequence[float | None] = (0.9,) * 8,
    erased: Sequence[float | None] = (0.1,) * 8,
    attacked: Sequence[float | None] = (0.2,) * 8,
    kept: Sequence[float | None] = (0.9,) * 10,
    named: dict[str, Any] | None = None,
    finished: bool = True,
) -> Path:
    """A run of scores; the attack is `synonyms`, with as many tries of the control."""
    names = (PLAIN, "seeds", "synonyms")
    story = {
        "efface": "0",
        "base": "f-f",
        "erased": "0" * 64,
        "concept": asdict(Concept(concept, (concept,))),
        "attacks": {name: asdict(attacks.build(name)) for name in names},  # type: ignore[call-overload]
        "prompts": {"generated": len(base), "kept": len(kept)},
        "budget": "small",
        "detector": {"name": "emoji-reporting", "watch": None},
        "steps": 2,
        "guidance": 5.0,
        "seed": 0,
    }
    called = {"model": "emoji", "erased": "no-cat.safetensors", "patch": PATCH}
    with open_store(folder, story, called if named is None else named) as store:
        others = [("a dog", "dog"), ("a tree", "tree"), ("a house", "house")]

        def benign(scores: Sequence[float | None]) -> list[Row]:
            return [
                row(store, others[i % 3][0], 100 + i, s, KEPT, names=others[i % 3][1])
                for i, s in enumerate(scores)
            ]

        store.base.append([row(store, prompt, i, s) for i, s in enumerate(base)])
        store.base.append(benign([0.95] * len(kept)))
        store.rows.append([row(store, prompt, i, s) for i, s in enumerate(erased)])
        store.rows.append(benign(kept))
        left = [i for i, s in enumerate(erased) if s is None or s <= 0.5]
        store.rows.append([row(store, prompt, i, 0.1, "seeds", step=0) for i in left])
        store.rows.append(
            [
                row(store, prompt, i, s, "synonyms", said=f"a kitty like {prompt}")
                for i, s in enumerate(attacked)
                if i in left
            ]
        )
    if finished:
        (folder / "table.json").write_text("{}")
    return folder

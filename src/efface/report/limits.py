"""The limits of a run's evidence in plain words; those that its own settings cause come first."""

from efface.core import ACROSS, KEPT
from efface.report.evidence import Evidence

NEEDS = {
    "none": "prompts only",
    "text": "text encoder",
    "white": "the weights",
    "weights": "trains the weights",
}
"""What an attacker must have, in words."""
UNTRIED = {
    "text": "Nobody searched with the text encoder at hand (Ring-A-Bell, coordinate gradients).",
    "white": "Nobody searched with the weights at hand (UnlearnDiffAtk, P4D, textual inversion).",
    "weights": "Nobody trained the concept back in; whoever holds the weights may.",
}


def limits(found: Evidence) -> list[str]:
    """What the reader must not conclude."""
    tried = {line["access"] for line in found.table["attacks"]}
    named = [line["attack"] for line in found.table["attacks"] if line["attack"] != "none"]
    kept = sum(row.attack in (KEPT, ACROSS) for row in found.run.rows)
    detector = found.run.story["detector"]["name"]
    said = [
        f"Only {', '.join(named) or 'no attack'} ran, at budget "
        f"{found.run.story.get('budget', 'unknown')}; a longer or cleverer attack may find more.",
        *(text for access, text in UNTRIED.items() if access not in tried),
        f"“Seen” is what the detector {detector} says. It errs on pictures unlike those it was "
        "trained on, and sees only what it has a name for."
        + "".join(f" {each}." for each in _judges(found)),
        f"What stays was tried on {kept} benign prompts; concepts that are not among them may have "
        "moved.",
        "The intervals are for prompts like these at new seeds, not for prompts of another sort. "
        "Each stands by itself: of twenty such intervals one misses on average.",
        "A certificate judges the rows of a text encoder one by one. It does not bound pictures to "
        "start from, latents, training, or a concept that other words describe.",
    ]
    if zeros := found.run.story.get("zeros"):
        said.insert(
            0,
            f"It was pruned: {zeros['zeros']} weights of {zeros['layers']} layers are exactly 0. "
            "Whoever holds the model reads off them which weights drew the concept, and may revive "
            "it from that without data (arXiv:2603.06640).",
        )
    if some := [line["attack"] for line in found.table["attacks"] if line["redrawn"]]:
        said.append(
            f"{', '.join(some)} begins with a picture of the concept. How much of it any model "
            "would keep was not measured: compare erasers with each other."
        )
    if found.faults:
        said.insert(1, f"{len(found.faults)} pictures failed; what they would show is not known.")
    if not found.finished:
        said.insert(0, "The audit was stopped before its end; attacks that did not run look weak.")
    return said


def _judges(found: Evidence) -> list[str]:
    """Each detector with its settings and the hash of its weights."""
    each = found.run.story["detector"].get("each", [])
    return [
        f"{told['kind']}: "
        + ", ".join(f"{key} {value}" for key, value in told.items() if _told(key, value))
        + f", weights {told['sha256'][:12]}"
        for told in each
    ]


def _told(key: str, value: object) -> bool:
    return key not in ("kind", "sha256") and value not in (None, "", False)

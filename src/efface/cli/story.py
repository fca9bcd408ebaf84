"""What a patch tells of itself, as JSON and as lines."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from efface.cli import show
from efface.core import Gate
from efface.patch import Patch


def story(patch: Patch) -> dict[str, Any]:
    """What a patch tells of itself, for JSON."""
    return {
        "concept": asdict(patch.concept),
        "eraser": dict(patch.eraser),
        "base": patch.base,
        "made": dict(patch.made) or None,
        "maps": [
            {"encoder": m.encoder, "width": m.a.shape[0], "rank": m.a.shape[1]} for m in patch.maps
        ],
        "edits": [
            {"param": e.param, "op": e.op, "rank": None if e.b is None else e.a.shape[1]}
            for e in patch.edits
        ],
        "gates": [
            {"site": g.site, "kind": g.kind, "numbers": sum(t.numel() for t in g.tensors.values())}
            for g in patch.gates
        ],
        "facts": dict(patch.facts),
    }


def told(patch: Patch) -> dict[str, object]:
    """The same in lines for people."""
    concept, strength = patch.concept, patch.eraser.get("strength")
    return {
        "erased": ", ".join(concept.erase),
        "toward": ", ".join(t or "nothing in particular" for t in concept.toward),
        "kept": f"{len(concept.keep)} phrases",
        "said of": f"{len(concept.within)} things" if concept.within else None,
        "by": patch.eraser.get("name"),
        "strength": strength,
        **(_alarms(patch.facts) if patch.gates else _measured(patch.facts)),
        **_trained(patch),
    }


def _trained(patch: Patch) -> dict[str, object]:
    """What was changed tensor by tensor, and how far predictions went; nothing for prompt maps."""
    moved, count = patch.facts.get("moved"), sum(e.a.numel() for e in patch.edits)
    found = moved if isinstance(moved, Mapping) else {}
    erased, kept = _number(found.get("erased")), _number(found.get("kept"))
    return {
        "steps": patch.facts.get("steps"),
        "changed": f"{len(patch.edits)} tensors, {count} numbers" if patch.edits else None,
        "moved": f"{erased} of what the concept says, {kept} of what is kept" if moved else None,
    }


def gates_told(gates: Sequence[Gate]) -> str:
    """Gates by kind: where the first stands, how many more, how many numbers they bring."""
    found = list[str]()
    for kind in dict.fromkeys(g.kind for g in gates):
        some = [g for g in gates if g.kind == kind]
        more = f" and {len(some) - 1} more" if len(some) > 1 else ""
        count = sum(t.numel() for g in some for t in g.tensors.values())
        found.append(f"{kind} at {some[0].site}{more}, {count} numbers")
    return "; ".join(found)


def _alarms(facts: Mapping[str, Any]) -> dict[str, object]:
    """How often gates open for what is kept, as a line."""
    gates = facts.get("gates")
    told = dict[str, object]()
    for where, found in gates.items() if isinstance(gates, Mapping) else ():
        alarms = found.get("false positives") if isinstance(found, Mapping) else None
        if isinstance(alarms, Mapping) and isinstance(rate := alarms.get("value"), int | float):
            told[f"false alarms, {where}"] = f"{_number(rate)} of {alarms.get('n')} kept prompts"
    return told


def _measured(facts: Mapping[str, Any]) -> dict[str, object]:
    """Certificate, drift, epochs and why it stopped, as lines; what was not measured says so."""
    found = facts.get("certificate")
    known = found if isinstance(found, Mapping) else {}
    least, mean, drift = known.get("min"), known.get("mean"), facts.get("drift")
    certificate = f"{_number(least)} at least, {_number(mean)} on average (0 recoverable, 1 gone)"
    return {
        "certificate": "not measured" if least is None else certificate,
        "drift": "not measured" if drift is None else f"{_number(drift)} of what is kept",
        "epochs": facts.get("epochs"),
        "stopped because": facts.get("stopped"),
    }


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else show.one_line(value)

"""The parts of a patch as its file tells them: story entries and tensors in, nouns out.

Each takes its tensors out of `left`, and refuses in one sentence what makes no such part.
"""

from typing import Any

from torch import Tensor

from efface.core import Concept, Edit, EffaceError, Gate, PromptMap
from efface.gates import build


def read_concept(told: dict[str, Any]) -> Concept:
    """What goes, where to, what stays."""
    phrases = {key: told.get(key) for key in ("erase", "toward", "keep")}
    phrases["within"] = told.get("within", [])
    for key, value in phrases.items():
        if not isinstance(value, list) or not all(isinstance(phrase, str) for phrase in value):
            raise EffaceError(f"its concept's {key!r} is not a list of phrases")
    if not isinstance(told.get("name"), str):
        raise EffaceError("its concept has no name")
    return Concept(told["name"], **{key: tuple(value or ()) for key, value in phrases.items()})


def read_map(encoder: Any, place: str, left: dict[str, Tensor]) -> PromptMap:
    """The map of a stream."""
    a, b = left.pop(f"{place}.a", None), left.pop(f"{place}.b", None)
    if not isinstance(encoder, str) or a is None or b is None or a.ndim != 2 or a.shape != b.shape:
        raise EffaceError(f"its {place} is not a pair of matrices of one shape")
    if not (a.is_floating_point() and b.is_floating_point()):
        raise EffaceError(f"its {place} is not a pair of matrices of numbers")
    return PromptMap(encoder, a, b)


def read_edit(entry: Any, place: str, left: dict[str, Tensor]) -> Edit:
    """The edit of a tensor."""
    a, b = left.pop(f"{place}.a", None), left.pop(f"{place}.b", None)
    match entry:
        case [str(param), "add" | "mul" | "set" as op]:
            reads = ""
        case [str(param), "add" | "mul" | "set" as op, str(reads)]:
            pass
        case _:
            raise EffaceError(f"its {place} names no tensor to add to, multiply or set")
    if a is None or (b is not None and (op != "add" or a.ndim != 2 or b.ndim != 2)):
        raise EffaceError(f"its {place} has not the tensors that {op!r} needs")
    if b is not None and a.shape[1] != b.shape[0]:
        raise EffaceError(f"its {place} multiplies {tuple(a.shape)} with {tuple(b.shape)}")
    return Edit(param, op, a, b, reads)


def read_gate(entry: Any, place: str, left: dict[str, Tensor]) -> Gate:
    """The gate of a site."""
    match entry:
        case [str(site), str(kind), str(reads), dict(settings)]:
            pass
        case _:
            raise EffaceError(f"its {place} is not a site, a kind, a fingerprint and settings")
    begin = f"{place}."
    tensors = {
        name.removeprefix(begin): left.pop(name) for name in [*left] if name.startswith(begin)
    }
    gate = Gate(site, kind, reads, settings, tensors)
    build(gate)  # refuses what makes no gate
    return gate

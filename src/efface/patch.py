"""The artifact's whole life: save, load, stack, scale.

A patch is one safetensors file. Its header's metadata key "efface" is JSON: concept, eraser and
settings, the fingerprint of the base, versions, time, and what the fit measured; the key "sha256"
is the checksum of it all. Reading one never runs code and never allocates more than the file holds.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from efface.core import Concept, Edit, EffaceError, Gate, PromptMap, same_base
from efface.hub import local
from efface.linalg import LowRank
from efface.output import check_output, write_whole
from efface.patch_parts import read_concept, read_edit, read_gate, read_map

FORMAT = 1
"""Version of the header; a reader refuses any other."""
HEADER_LIMIT = 1 << 20
"""Bytes of story a header may hold."""
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool)
"""What a patch's numbers may be stored as; a mask of zeros and ones as bool."""


@dataclass(frozen=True, eq=False)
class Patch:
    """The artifact: what one erasure changes, with its story."""

    concept: Concept
    eraser: Mapping[str, Any]
    """{"name": "rece", **settings}."""
    base: str
    """Fingerprint of the model it was fitted on."""
    maps: tuple[PromptMap, ...] = ()
    edits: tuple[Edit, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the fit measured: certificate, drift, why it stopped."""
    made: Mapping[str, str] = field(default_factory=dict)
    """Time and versions, once it was saved."""
    gates: tuple[Gate, ...] = ()

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write the file under a temporary name, fsync, rename; overwrites only if forced."""
        path = Path(path)
        check_output(path, force=force)
        write_whole(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """The file's content; what `load` would refuse is refused here."""
        versions = {name: version(name) for name in ("efface", "torch", "transformers")}
        story = {
            "format": FORMAT,
            "concept": asdict(self.concept),
            "eraser": dict(self.eraser),
            "base": self.base,
            "maps": [m.encoder for m in self.maps],
            "edits": [[e.param, e.op, *filter(None, [e.reads])] for e in self.edits],
            "gates": [[g.site, g.kind, g.reads, dict(g.settings)] for g in self.gates],
            "facts": dict(self.facts),
            "made": {"time": datetime.now(UTC).isoformat(timespec="seconds"), **versions},
        }
        tensors = _tensors(self)
        _check_numbers(tensors, "the patch's")
        try:
            told = json.dumps(story, allow_nan=False)
        except ValueError as error:
            raise EffaceError(f"the patch's story cannot be written as JSON ({error})") from error
        data = to_bytes(tensors, {"efface": told, "sha256": checksum(told, tensors)})
        if (size := int.from_bytes(data[:8], "little")) > HEADER_LIMIT:
            raise EffaceError(
                f"its header would take {size} bytes of at most {HEADER_LIMIT}: keep fewer phrases"
            )
        return data

    def scale(self, strength: float) -> "Patch":
        """The same erasure at another strength: 0 is no edit, 1 the edit as fitted.

        What the fit measured does not hold at another strength, so `facts` are left out then.
        """
        if not math.isfinite(strength):
            raise EffaceError(f"strength {strength} is no number: 0 is no edit, 1 the whole edit")
        if strength == 1:
            return self
        if self.gates:
            raise EffaceError(
                f"the patch has a gate at {self.gates[0].site}: only strength 1 can be asked of "
                "it, its method has settings for how far it goes"
            )
        return replace(
            self,
            eraser={**self.eraser, "strength": strength * self.eraser.get("strength", 1.0)},
            maps=tuple(replace(m, a=m.a * strength) for m in self.maps),
            edits=tuple(_scaled(e, strength) for e in self.edits),
            facts={},
        )


def _scaled(edit: Edit, strength: float) -> Edit:
    if edit.op == "add":
        return replace(edit, a=edit.a * strength)
    if edit.op == "mul":
        return replace(edit, a=1 + (edit.a.float() - 1) * strength)
    raise EffaceError(f"the patch sets {edit.param} outright: only strength 1 can be asked of it")


def _tensors(patch: Patch) -> dict[str, Tensor]:
    """The file's tensors by name: maps.0.a, maps.0.b, edits.0.a ..."""
    found: dict[str, Tensor | None] = {}
    for i, m in enumerate(patch.maps):
        found |= {f"maps.{i}.a": m.a, f"maps.{i}.b": m.b}
    for i, e in enumerate(patch.edits):
        found |= {f"edits.{i}.a": e.a, f"edits.{i}.b": e.b}
    for i, g in enumerate(patch.gates):
        found |= {f"gates.{i}.{name}": tensor for name, tensor in g.tensors.items()}
    # Copies: one tensor may stand in two places, which a safetensors file does not allow.
    dense = torch.contiguous_format
    held = {name: t.detach().cpu() for name, t in found.items() if t is not None}
    return {name: t.clone(memory_format=dense) for name, t in held.items()}


def _check_numbers(tensors: Mapping[str, Tensor], whose: str) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS or not tensor.isfinite().all():
            raise EffaceError(f"{whose} tensor {name!r} holds values that are not finite numbers")


def load(path: str | Path) -> Patch:
    """Read a patch file or `hub:owner/name`, or one sentence on why it is none."""
    path = local(path)
    try:
        if path.exists() and not path.is_file():
            raise EffaceError(f"{path} is not a regular file: a patch is one .safetensors file")
        _check_header(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise EffaceError(f"{path} does not exist: give the path of a patch file") from error
    except OSError as error:
        raise EffaceError(f"{path} cannot be read ({error}): give a patch file") from error
    except SafetensorError as error:
        raise EffaceError(
            f"{path} is truncated or not a patch ({error}): make it again with efface erase"
        ) from error
    if "efface" not in metadata:
        raise EffaceError(f"{path} is safetensors but no patch: give a file that efface wrote")
    try:
        patch = _assemble(_story(metadata["efface"]), tensors)
        found = checksum(metadata["efface"], tensors)
        if metadata.keys() - {"efface", "sha256"} or metadata.get("sha256", found) != found:
            raise EffaceError("its checksum is wrong, so a byte of it changed: make it again")
        return patch
    except EffaceError as error:
        raise EffaceError(f"{path} is damaged: {error}") from error


def checksum(story: str, tensors: Mapping[str, Tensor]) -> str:
    """Of all that a patch says, so that no damage to its file goes unseen."""
    told = hashlib.sha256(story.encode())
    for name, tensor in sorted(tensors.items()):
        told.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        told.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return told.hexdigest()


def _check_header(path: Path) -> None:
    """Refuse a header that claims more than a story can need, before anything parses it."""
    with path.open("rb") as file:
        claimed = int.from_bytes(file.read(8), "little")
    if claimed > HEADER_LIMIT:
        raise EffaceError(
            f"{path} is not a patch: its header claims {claimed} bytes, a patch's has at most "
            f"{HEADER_LIMIT}"
        )


def _story(text: str) -> dict[str, Any]:
    """The header's JSON with every field of the type that the rest relies on."""
    try:
        story = json.loads(text)
        # What could not be written again is refused: infinities (1e999 is one) and half characters.
        json.dumps(story, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise EffaceError(f"its story is not JSON ({error})") from error
    if not isinstance(story, dict) or type(story.get("format")) is not int:
        raise EffaceError("its story has no format number")
    if story["format"] != FORMAT:
        raise EffaceError(
            f"it has format {story['format']}, this efface reads {FORMAT}: use the one that made it"
        )
    kinds = {"concept": dict, "eraser": dict, "base": str, "maps": list, "edits": list}
    for key, kind in (kinds | {"facts": dict, "made": dict}).items():
        if not isinstance(story.get(key), kind):
            raise EffaceError(f"its story's {key!r} is not a {kind.__name__}")
    if not isinstance(story.setdefault("gates", []), list):
        raise EffaceError("its story's 'gates' is not a list")
    if not isinstance(story["eraser"].get("strength", 1.0), int | float):
        raise EffaceError("its eraser's 'strength' is not a number")
    return story


def _assemble(story: dict[str, Any], tensors: dict[str, Tensor]) -> Patch:
    """The patch that a story and its tensors tell of; every tensor must have its place."""
    _check_numbers(tensors, "its")
    left = dict(tensors)
    maps = tuple(read_map(name, f"maps.{i}", left) for i, name in enumerate(story["maps"]))
    edits = tuple(read_edit(entry, f"edits.{i}", left) for i, entry in enumerate(story["edits"]))
    gates = tuple(read_gate(entry, f"gates.{i}", left) for i, entry in enumerate(story["gates"]))
    if left:
        raise EffaceError(f"its tensor {min(left)!r} is not told of in its story")
    return Patch(
        concept=read_concept(story["concept"]),
        eraser=story["eraser"],
        base=story["base"],
        maps=maps,
        edits=edits,
        gates=gates,
        facts=story["facts"],
        made={str(k): str(v) for k, v in story["made"].items()},
    )


def dense(base: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> tuple[Edit, ...]:
    """What to add to tensors of a base to make them the new ones, in float32."""
    return tuple(
        Edit(name, "add", (w.detach().double() - base[name].detach().double()).float().cpu())
        for name, w in new.items()
    )


def stack(patches: Sequence[Patch]) -> Patch:
    """One patch that does what applying `patches` first to last does to one base."""
    if not patches:
        raise EffaceError("nothing to stack: give at least one patch")
    edited = [i for i, p in enumerate(patches) if p.edits]
    if edited and any(p.maps for p in patches[edited[0] + 1 :]):
        raise EffaceError("a map cannot be stacked on edits: apply the patches one after the other")
    first = patches[0]
    for other in patches[1:]:
        if not same_base(other.base, first.base):
            raise EffaceError(
                f"patches of different bases cannot be stacked: {first.base} and {other.base}"
            )
    concepts = [p.concept for p in patches]
    concept = Concept(
        name=" + ".join(c.name for c in concepts),
        erase=tuple(e for c in concepts for e in c.erase),
        toward=tuple(g for c in concepts for g in c.goals()),
    )
    return Patch(
        concept=concept,
        eraser={"name": "stack", "of": [dict(p.eraser) for p in patches]},
        base=first.base,
        maps=_compose([m for p in patches for m in p.maps]),
        edits=tuple(e for p in patches for e in p.edits),
        gates=tuple(g for p in patches for g in p.gates),
        facts={"of": [dict(p.facts) for p in patches]},
    )


def _compose(maps: Sequence[PromptMap]) -> tuple[PromptMap, ...]:
    """W T₁ T₂ ... for each stream, in float64: a product must not be rougher than its factors."""
    product: dict[str, LowRank] = {}
    for m in maps:
        step = LowRank(m.a, m.b)
        product[m.encoder] = product[m.encoder].compose(step) if m.encoder in product else step
    return tuple(PromptMap(k, t.a, t.b) for k, t in product.items())

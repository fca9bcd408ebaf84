"""The artifact's whole life: save, load, stack, scale, apply.

A patch is one safetensors file. Its header's single metadata key, "efface", is JSON: concept, eraser and
settings, the fingerprint of the base, versions, time, and what the fit measured. Reading one never runs
code and never allocates more than the file holds.
"""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from efface.core import Concept, Edit, EffaceError, PromptMap
from efface.linalg import LowRank

FORMAT = 1
"""Version of the header; a reader refuses a newer one."""
HEADER_LIMIT = 1 << 20
"""Bytes of story a header may hold."""


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

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write the file under a temporary name, fsync, rename; refuses to overwrite unless forced."""
        path = Path(path)
        if path.exists() and not force:
            raise EffaceError(f"{path} exists: choose another name or pass --force")
        if not path.parent.is_dir():
            raise EffaceError(f"{path.parent} is not a folder: create it first")
        versions = {name: version(name) for name in ("efface", "torch", "transformers")}
        story = {
            "format": FORMAT,
            "concept": asdict(self.concept),
            "eraser": dict(self.eraser),
            "base": self.base,
            "maps": [m.encoder for m in self.maps],
            "edits": [[e.param, e.op] for e in self.edits],
            "facts": dict(self.facts),
            "made": {"time": datetime.now(UTC).isoformat(timespec="seconds"), **versions},
        }
        write_whole(path, to_bytes(_tensors(self), {"efface": json.dumps(story)}))

    def stack(patches: Sequence[Patch]) -> Patch:
    """One patch that does what applying `patches` first to last does to one base."""
    if not patches:
        raise EffaceError("nothing to stack: give at least one patch")
    first = patches[0]
    for other in patches[1:]:
        if other.base != first.base:
            raise EffaceError(f"patches of different bases cannot be stacked: {first.base} and {other.base}")
    phrases = [(e, g) for p in patches for e, g in zip(p.concept.erase, p.concept.goals(), strict=True)]
    concept = Concept(
        name=" + ".join(p.concept.name for p in patches),
        erase=tuple(e for e, _ in phrases),
        toward=tuple(g for _, g in phrases),
    )
    return Patch(
        concept=concept,
        eraser={"name": "stack", "of": [dict(p.eraser) for p in patches]},
        base=first.base,
        maps=_compose([m for p in patches for m in p.maps]),
        edits=tuple(e for p in patches for e in p.edits),
        facts={"of": [dict(p.facts) for p in patches]},
    )


def _compose(maps: Sequence[PromptMap]) -> tuple[PromptMap, ...]:
    """W T₁ T₂ ... for each stream."""
    product: dict[str, LowRank] = {}
    for m in maps:
        step = LowRank(m.a, m.b)
        product[m.encoder] = product[m.encoder].compose(step) if m.encoder in product else step
    return tuple(PromptMap(k, t.a.float(), t.b.float()) for k, t in product.items())

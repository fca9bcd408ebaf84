"""What a weight becomes under patches: the one place where maps and edits meet tensors."""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from efface.backbones.fingerprint import roundings
from efface.backbones.readers import Reader
from efface.core import Edit, EffaceError, PromptMap, same_base
from efface.patch import Patch

ROWS = 256
"""Rows of a matrix that are mapped at once: what is being worked on stays in the cache."""


class Merge:
    """The patches of one base, first to last, as a function from old weight to new."""

    def __init__(
        self,
        patches: Sequence[Patch],
        base: str,
        readers: Mapping[str, Reader],
        names: Collection[str],
    ) -> None:
        """`readers`: the text-reading matrices by name; `names`: every tensor that exists."""
        self.patches, self.readers = patches, readers
        streams = {r.stream for r in readers.values()}
        for patch in patches:
            if not same_base(patch.base, base):
                raise EffaceError(
                    f"this patch was fitted on base {patch.base} but the model is {base}: "
                    "fit it again on this model, or load the model it was made for"
                )
            if lost := [e.param for e in patch.edits if e.param not in names]:
                raise EffaceError(
                    f"the model has no tensor {lost[0]!r} that the patch edits: it is another kind"
                )
            if lost := [m.encoder for m in patch.maps if m.encoder not in streams]:
                raise EffaceError(f"the model has no text stream {lost[0]!r} that the patch maps")

    @property
    def changed(self) -> frozenset[str]:
        """Names of the tensors that come out different."""
        streams = {m.encoder for p in self.patches for m in p.maps}
        mapped = frozenset(n for n, r in self.readers.items() if r.stream in streams)
        return mapped | {e.param for p in self.patches for e in p.edits}

    def weight(self, name: str, old: Tensor) -> Tensor:
        """The new tensor in the old one's dtype and device; computed in float64 on the CPU."""
        for edit in (e for p in self.patches for e in p.edits if e.param == name and e.reads):
            if not same_base(edit.reads, found := roundings([old])):
                raise EffaceError(
                    f"the patch's edit of {name} was fitted on {edit.reads} but the model's is "
                    f"{found}: fit it again on this model"
                )
        merged = torch.empty(old.shape, dtype=old.dtype)
        if any(edit.param == name for patch in self.patches for edit in patch.edits):
            pieces = [(merged, old)]
        else:  # maps work row by row
            pieces = list(zip(merged.split(ROWS), old.split(ROWS), strict=True))
        for new, piece in pieces:
            new.copy_(self._changed(name, piece))
            askable = new.float() if new.dtype.itemsize == 1 else new
            if not askable.isfinite().all():
                raise EffaceError(
                    f"under the patch {name} leaves the range of {old.dtype}: lower its strength"
                )
        return merged.to(old.device)

    def _changed(self, name: str, old: Tensor) -> Tensor:
        """The tensor, or some of its rows where only maps change it, in float64."""
        new = old.detach().to("cpu", torch.float64, copy=True)
        for patch in self.patches:
            for m in patch.maps:
                if (reader := self.readers.get(name)) and reader.stream == m.encoder:
                    _map(name, new, m, reader)
            for edit in (e for e in patch.edits if e.param == name):
                new = _edited(new, edit, self.readers.get(name))
        return new


def _map(name: str, weight: Tensor, m: PromptMap, reader: Reader) -> None:
    """W becomes W T in place, in its columns that read the stream."""
    width = reader.width or weight.shape[1]
    if m.a.shape[0] != width:
        raise EffaceError(f"the patch maps rows of {m.a.shape[0]}, {name} reads {width}")
    read = weight[:, :width]
    read.addmm_(read @ m.a.double(), m.b.double().T)


def _edited(weight: Tensor, edit: Edit, reader: Reader | None) -> Tensor:
    """The edited tensor; of a matrix that reads more than a stream, in the stream's columns."""
    width = reader.width if reader else None
    if edit.op == "add" and edit.b is not None and edit.b.shape[1] == width:
        return torch.cat([_edited(weight[:, :width], edit, None), weight[:, width:]], 1)
    shape = edit.a.shape if edit.b is None else (edit.a.shape[0], edit.b.shape[1])
    if not _broadcasts(tuple(shape), tuple(weight.shape)):
        raise EffaceError(
            f"the patch edits {edit.param} as {tuple(shape)}, the model's is {tuple(weight.shape)}"
        )
    a = edit.a.double()
    delta = a if edit.b is None else a @ edit.b.double()
    if edit.op == "add":
        return weight + delta
    return weight * delta if edit.op == "mul" else delta.expand_as(weight)


def _broadcasts(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    """Whether a tensor of one shape spreads over another without changing it."""
    pairs = zip(reversed(small), reversed(large), strict=False)
    return len(small) <= len(large) and all(s in (1, n) for s, n in pairs)

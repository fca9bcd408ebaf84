"""What a weight becomes under patches: the one place where maps and edits meet tensors."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from efface.backbones.model import same_base
from efface.core import Edit, EffaceError
from efface.patch import Patch


class Merge:
    """The patches of one base, first to last, as a function from old weight to new."""

    def __init__(
        self, patches: Sequence[Patch], base: str, readers: Collection[str], names: Collection[str]
    ) -> None:
        """`readers`: names of the text-reading matrices; `names`: every tensor that exists."""
        self.patches, self.readers = patches, frozenset(readers)
        for patch in patches:
            if not same_base(patch.base, base):
                raise EffaceError(
                    f"this patch was fitted on base {patch.base} but the model is {base}: "
                    "fit it again on this model, or load the model it was made for"
                )
            if lost := [e.param for e in patch.edits if e.param not in names]:
                raise EffaceError(f"the model has no tensor {lost[0]!r} that the patch edits: it is of another kind")
            if any(m.encoder != "text" for m in patch.maps):
                raise EffaceError(f"the model has no text stream {patch.maps[0].encoder!r} that the patch maps")

    @property
    def changed(self) -> set[str]:
        """Names of the tensors that come out different."""
        mapped = self.readers if any(p.maps for p in self.patches) else frozenset[str]()
        return mapped | {e.param for p in self.patches for e in p.edits}

    def weight(self, name: str, old: Tensor) -> Tensor:
        """The new tensor in the old one's dtype and device; computed in float64 on the CPU."""
        new = old.detach().cpu().double()
        for patch in self.patches:
            for m in patch.maps if name in self.readers else ():
                if m.a.shape[0] != new.shape[1]:
                    raise EffaceError(f"the patch maps rows of {m.a.shape[0]}, {name} reads rows of {new.shape[1]}")
                new = new + (new @ m.a.double()) @ m.b.double().T
            for edit in (e for e in patch.edits if e.param == name):
                new = _edited(new, edit)
        return new.to(old.device, old.dtype)


def _edited(weight: Tensor, edit: Edit) -> Tensor:
    a = edit.a.double()
    delta = a if edit.b is None else a @ edit.b.double()
    if torch.broadcast_shapes(delta.shape, weight.shape) != weight.shape:
        raise EffaceError(f"the patch edits {edit.param} as {tuple(delta.shape)}, the model's is {tuple(weight.shape)}")
    if edit.op == "add":
        return weight + delta
    return weight * delta if edit.op == "mul" else delta.expand_as(weight)

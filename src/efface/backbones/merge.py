"""What a weight becomes under patches: the one place where maps and edits meet tensors."""

from collections.abc import Collection, Sequence

from torch import Tensor

from efface.core import Edit, EffaceError, same_base
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
                raise EffaceError(
                    f"the model has no tensor {lost[0]!r} that the patch edits: it is another kind"
                )
            if lost := [m.encoder for m in patch.maps if m.encoder != "text"]:
                raise EffaceError(f"the model has no text stream {lost[0]!r} that the patch maps")

    @property
    def changed(self) -> frozenset[str]:
        """Names of the tensors that come out different."""
        mapped = self.readers if any(p.maps for p in self.patches) else frozenset[str]()
        return mapped | {e.param for p in self.patches for e in p.edits}

    def weight(self, name: str, old: Tensor) -> Tensor:
        """The new tensor in the old one's dtype and device; computed in float64 on the CPU."""
        new = old.detach().cpu().double()
        for patch in self.patches:
            for m in patch.maps if name in self.readers else ():
                if m.a.shape[0] != new.shape[1]:
                    raise EffaceError(
                        f"the patch maps rows of {m.a.shape[0]}, {name} reads {new.shape[1]}"
                    )
                new = new + (new @ m.a.double()) @ m.b.double().T
            for edit in (e for e in patch.edits if e.param == name):
                new = _edited(new, edit)
        merged = new.to(old.device, old.dtype)
        if not merged.isfinite().all():
            raise EffaceError(
                f"under the patch {name} leaves the range of {old.dtype}: lower its strength"
            )
        return merged


def _edited(weight: Tensor, edit: Edit) -> Tensor:
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

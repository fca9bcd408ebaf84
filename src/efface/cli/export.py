"""`efface export`: patches merged into a copy of the model, or as a LoRA beside it."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from efface.cli import show
from efface.cli.options import Force, Json, Model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from efface.patch import Patch


class Form(StrEnum):
    """What to write."""

    folder = "folder"
    file = "file"
    lora = "lora"
    kohya = "kohya"


def export(
    model: Model,
    patches: Annotated[
        list[Path],
        typer.Argument(metavar="PATCH...", help="Merged first to last.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="PATH", help="Folder or .safetensors to write.")
    ],
    form: Annotated[
        Form | None,
        typer.Option(
            "--as",
            help="The model with the patches merged in, or a LoRA for diffusers (lora) or for "
            "ComfyUI and WebUI (kohya) [default: folder or file, as MODEL is].",
            show_default=False,
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of a LoRA, where a change has no factors [default: 64].",
            show_default=False,
        ),
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write the erased model, or a LoRA that erases, for the tools that draw with it."""
    from efface.backbones.checkpoint import resolve
    from efface.patch import load

    if rank is not None and form not in (Form.lora, Form.kohya):
        raise typer.BadParameter("only a LoRA has one: pass --as lora", param_hint="--rank")
    loaded = [load(path) for path in patches]
    root = resolve(model)
    chosen = form or (Form.file if root.is_file() else Form.folder)
    _check_form(root, out, chosen)
    answer, lines = _write(root, loaded, out, chosen, rank, force=force)
    if json:
        show.as_json({"path": str(out), "as": chosen.value, **answer})
        return
    erased = ", ".join(e for p in loaded for e in p.concept.erase)
    show.facts({"exported": out, "as": chosen.value, "erased": erased, **lines})


def _check_form(root: Path, out: Path, form: Form) -> None:
    """Refuse a form that the model does not have, or a name that does not suit it."""
    from efface.core import EffaceError

    is_file, named = root.is_file(), out.suffix == ".safetensors"
    if form is Form.folder and is_file:
        raise EffaceError(f"{root} is a single file: export it --as file, lora or kohya")
    if form is Form.file and not is_file:
        raise EffaceError(f"{root} is a folder: export it --as folder, lora or kohya")
    if form is Form.folder and named:
        raise EffaceError(
            f"{root} is a folder and {out} names a file: name a folder, or pass --as lora or kohya"
        )
    if form is not Form.folder and not named:
        raise EffaceError(f"{out} is to be a file: end its name in .safetensors")


def _write(
    root: Path, patches: "Sequence[Patch]", out: Path, form: Form, rank: int | None, *, force: bool
) -> tuple[dict[str, object], dict[str, object]]:
    """What was written, for JSON and in lines."""
    if form in (Form.lora, Form.kohya):
        from efface.export_lora import export_lora
        from efface.lora import DENSE_RANK

        with show.progress() as on_step:
            lora = export_lora(
                root,
                patches,
                out,
                on_step,
                form="kohya" if form is Form.kohya else "lora",
                rank=rank or DENSE_RANK,
                force=force,
            )
        return lora._asdict(), {
            "matrices changed": lora.tensors,
            "rank": lora.rank,
            "left out by the rank": f"{lora.error:.2g} of the change at most",
            "size": show.size(lora.bytes),
        }
    from efface.export import export_folder
    from efface.export_file import export_file

    with show.progress() as on_step:
        done = (export_file if form is Form.file else export_folder)(
            root, patches, out, on_step, force=force
        )
    return done._asdict(), {
        "tensors changed": done.tensors,
        "files": done.files,
        "left out": ", ".join(done.left_out) or None,
        "size": show.size(done.bytes),
    }

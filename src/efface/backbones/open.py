"""Opening a model: a live pipeline, a diffusers folder or a single checkpoint file.

A matrix of a single file goes under its diffusers name, so a patch fitted on the file applies to
the same model as a folder, and the reverse.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from efface.backbone import Denoiser
from efface.backbones.checkpoint import resolve
from efface.backbones.file_parts import load_file_parts
from efface.backbones.model import Model, open_folder, open_pipeline
from efface.backbones.readers import readers
from efface.backbones.single_file import SingleFile
from efface.backbones.sites import FAMILIES
from efface.backbones.words import words_of
from efface.core import EffaceError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

KINDS = {"sd1": "sd", "sd2": "sd", "sdxl": "sdxl", "sd3": "sd3", "flux": "flux"}
"""Kind of a single file -> family."""


def open_model(
    source: "str | Path | DiffusionPipeline", tokenizer: str | Path | None = None
) -> Model:
    """The text side of a bundled name, folder, file, hub id or live pipeline."""
    if isinstance(source, str | Path):
        return open_path(resolve(str(source)), tokenizer)
    _check_unneeded(tokenizer, type(source).__name__)
    return open_pipeline(source)


def open_path(path: Path, tokenizer: str | Path | None = None) -> Model:
    """The text side of a diffusers folder or of a checkpoint file.

    `tokenizer`: a diffusers folder of the same family, or its tokenizer, for a file; the one in
    Hugging Face's cache if None.
    """
    if path.is_file():
        return open_file(SingleFile(path), None if tokenizer is None else Path(tokenizer))
    _check_unneeded(tokenizer, str(path))
    return open_folder(path)


def _no_denoiser(path: Path) -> Denoiser:
    raise EffaceError(
        f"{path} is a single file, and methods that train run the denoiser of a diffusers folder: "
        "give the folder of the model, and export its patch into the file"
    )


def _check_unneeded(tokenizer: str | Path | None, model: str) -> None:
    if tokenizer is not None:
        raise EffaceError(f"{model} has its own tokenizer: leave out {str(tokenizer)!r}")


def open_file(file: SingleFile, tokenizer: Path | None = None) -> Model:
    """Read tensor by tensor; text encoders and tokenizers when prompts are first encoded."""
    alike = [f for f in FAMILIES if f.name == KINDS[file.kind]]
    stored = file.readers()
    held = file.text_encoders()
    kind = next((f for f in alike if held.keys() >= set(f.encoders)), alike[-1])
    if lost := [which for which in kind.encoders if which not in held]:
        raise EffaceError(
            f"{file.path} holds no {' and no '.join(lost)}, which read the prompts: give the "
            "diffusers folder of the model, and export its patch as a LoRA, which this file takes"
        )

    def fetch(name: str) -> Tensor:
        return file.tensor(stored[name.removeprefix(f"{kind.component}/")])

    return Model(
        kind,
        readers(kind, stored, lambda site: site.width and file.projected_width(), str(file.path)),
        [f"{kind.component}/{name}" for name in stored],
        fetch,
        lambda width: kind.text({"width": width, **load_file_parts(file, kind, tokenizer)}),
        words_of(None),
        load_denoiser=lambda: _no_denoiser(file.path),
        norms=lambda: (norm for which in kind.encoders for norm in file.norms(which)),
        frozen=True,
    )

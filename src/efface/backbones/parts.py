"""Tokenizers and text encoders of a diffusers folder, loaded with transformers alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from efface.backbones.checkpoint import DAMAGE, Checkpoint
from efface.backbones.sites import Family
from efface.backbones.widen import widened
from efface.core import EffaceError

TOKENIZERS = (
    "CLIPTokenizer",
    "CLIPTokenizerFast",
    "T5Tokenizer",
    "T5TokenizerFast",
    "GemmaTokenizer",
    "GemmaTokenizerFast",
)
SMALL = ("CLIPTextModel", "CLIPTextModelWithProjection")
"""Encoders that run in float32 whatever they are stored as."""
LARGE = ("T5EncoderModel", "Gemma2Model")
"""Encoders of gigabytes, used as stored."""
NORMS = {
    **dict.fromkeys(SMALL, ("text_model.final_layer_norm", "final_layer_norm")),
    "T5EncoderModel": ("encoder.final_layer_norm",),
    "Gemma2Model": ("norm", "model.norm"),
}
"""Class of an encoder -> the norm that its last states leave, as its files may call it."""


def load_parts(checkpoint: Checkpoint, kind: Family) -> dict[str, Any]:
    """What the family's text side needs, by component name."""
    found: dict[str, Any] = {}
    for part in kind.parts():
        named = _class(checkpoint, part)
        found[part] = (
            _tokenizer(checkpoint, part, named)
            if named in TOKENIZERS
            else _encoder(checkpoint, part, named)
        )
    return found


def load_norms(checkpoint: Checkpoint, kind: Family) -> Iterator[Tensor]:
    """Weight and bias, if it has one, of every encoder's last norm; no encoder is built."""
    for part in kind.encoders:
        files, places = checkpoint.where(part), NORMS[_class(checkpoint, part)]
        norm = next((place for place in places if f"{place}.weight" in files), None)
        if norm is None:
            raise EffaceError(f"{checkpoint.root / part} lacks {places[0]!r}: download it again")
        names = [name for end in ("weight", "bias") if (name := f"{norm}.{end}") in files]
        yield from (checkpoint.tensor(files[name], name) for name in names)


def _class(checkpoint: Checkpoint, part: str) -> str:
    """The class of a component, if it is one of those that run no code of the folder's own."""
    match checkpoint.index.get(part):
        case ["transformers", str(named)] if named in (*TOKENIZERS, *SMALL, *LARGE):
            return named
    raise EffaceError(
        f"{checkpoint.root}: its {part} is {checkpoint.index.get(part)}; efface loads "
        f"{', '.join((*SMALL, *LARGE))} and their tokenizers, from transformers only"
    )


def _tokenizer(checkpoint: Checkpoint, part: str, named: str) -> Any:
    checkpoint.check_tokenizer(part)
    return read_tokenizer(checkpoint.root / part, named)


def read_tokenizer(folder: Path, named: str) -> Any:
    """The tokenizer of a class of TOKENIZERS that a folder holds."""
    import transformers

    try:
        return getattr(transformers, named).from_pretrained(folder, local_files_only=True)
    except (*DAMAGE, ImportError) as error:
        raise EffaceError(f"{folder} does not load ({error})") from error


def _encoder(checkpoint: Checkpoint, part: str, named: str) -> Any:
    import transformers

    checkpoint.where(part)
    checkpoint.config(part)
    folder = checkpoint.root / part
    try:
        loaded, found = getattr(transformers, named).from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            variant=checkpoint.variant(part),
            dtype=checkpoint.dtype(part),
            output_loading_info=True,
        )
    except DAMAGE as error:
        raise EffaceError(f"{folder} does not load ({error}): download it again") from error
    if lost := found["missing_keys"]:
        raise EffaceError(f"{folder} lacks {min(lost)!r}: download it again")
    return widened(loaded.eval()) if named in SMALL else loaded.eval()

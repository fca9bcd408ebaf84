"""Tokenizers and text encoders of a single file."""

from pathlib import Path
from typing import Any

import torch

from efface.backbones.encoder_weights import TextEncoder
from efface.backbones.parts import LARGE, read_tokenizer
from efface.backbones.single_file import SingleFile
from efface.backbones.sites import Family
from efface.backbones.widen import widened
from efface.core import EffaceError


def load_file_parts(file: SingleFile, kind: Family, tokenizer: Path | None) -> dict[str, Any]:
    """What the family's text side needs, by component name.

    `tokenizer`: a folder that holds the tokenizers; None: Hugging Face's cache.
    """
    found: dict[str, Any] = {}
    for which in kind.encoders:
        part = which.replace("text_encoder", "tokenizer")
        folder = file.tokenizer_folder(tokenizer, part)
        encoder = file.text_encoder(which)
        found[part] = _tokenizer(folder, encoder)
        built = encoder.build(_dtype(encoder))
        found[which] = built if encoder.model in LARGE else widened(built)
    return found


def _tokenizer(folder: Path, encoder: TextEncoder) -> Any:
    """The tokenizer, padding as the encoder was trained."""
    large = encoder.model in LARGE
    words = read_tokenizer(folder, "T5Tokenizer" if large else "CLIPTokenizer")
    size = encoder.config["vocab_size"]
    fits = len(words) <= size if large else words.eos_token_id == encoder.config["eos_token_id"]
    if not fits:
        raise EffaceError(
            f"{folder} has {len(words)} tokens, the file's {encoder.model} reads {size}: "
            "give the tokenizer of the same family"
        )
    if not large:
        words.pad_token = words.convert_ids_to_tokens(encoder.config["pad_token_id"])
    return words


def _dtype(encoder: TextEncoder) -> torch.dtype:
    """As a folder's encoders are read: as they are stored, 8-bit numbers in the next wider."""
    stored = next(iter(encoder.state.values())).dtype
    if stored.itemsize > 1:
        return stored
    return torch.bfloat16 if encoder.model in LARGE else torch.float32

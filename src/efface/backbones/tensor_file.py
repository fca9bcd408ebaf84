"""One .safetensors file, read by the range: opening takes the header, a tensor takes its own bytes.

The file is not mapped for writing, as torch's reader does, so it may be larger than memory. A
tensor's bytes go into pages of their own, which the system has back as soon as it is gone.
"""

import json
import os
from collections.abc import Mapping
from mmap import mmap
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from efface.core import EffaceError

HEADER_LIMIT = 1 << 24
"""Bytes of header, thumbnail and training notes included; the names of SDXL take 300 000."""
TENSOR_LIMIT = 1 << 16
"""Tensors in a file; SDXL has 2500, 5000 with its averages."""
FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""What weights may be stored as: the header's word -> dtype."""
IDENTITY = ("st_ino", "st_size", "st_mtime_ns")
"""What stays of a file that nobody has written to."""


class Stored(NamedTuple):
    """What the header says of a tensor."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """Where its bytes start in the file."""
    stop: int


class TensorFile:
    """A file whose header was found honest: it describes every byte, once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._seen = os.fstat(file.fileno())
                length = self._check_length(int.from_bytes(file.read(8), "little"))
                raw = file.read(length)
            with safe_open(path, framework="np"):
                told: dict[str, Any] = json.loads(raw)
        except FileNotFoundError as error:
            raise EffaceError(f"{path} does not exist: give a .safetensors file") from error
        except (SafetensorError, OSError, ValueError, RecursionError) as error:
            if isinstance(error, EffaceError):
                raise
            raise EffaceError(
                f"{path} is truncated or not safetensors ({_short(error)}): download it again"
            ) from error
        self.metadata: Mapping[str, Any] = told.pop("__metadata__", None) or {}
        if len(told) > TENSOR_LIMIT:
            raise EffaceError(
                f"{path} names {len(told)} tensors of at most {TENSOR_LIMIT}: "
                "it is no checkpoint, download it again"
            )
        self.header: Mapping[str, Stored] = {
            name: Stored(
                entry["dtype"],
                tuple(entry["shape"]),
                *(8 + length + offset for offset in entry["data_offsets"]),
            )
            for name, entry in told.items()
        }
        """Tensor name -> what is stored of it, in the header's order."""

    def _check_length(self, length: int) -> int:
        """Refuse a header that is longer than its file, or than any that was ever needed."""
        if self._seen.st_size < 8 or length > self._seen.st_size - 8:
            raise EffaceError(
                f"{self.path} is truncated or not safetensors (its header ends beyond the file): "
                "download it again"
            )
        if length > HEADER_LIMIT:
            raise EffaceError(
                f"{self.path} has a header of {length} bytes of at most {HEADER_LIMIT}: "
                "it is no checkpoint, download it again"
            )
        return length

    def read(self, name: str) -> Tensor:
        """One tensor as it is stored."""
        dtype, shape, start, stop = self.header[name]
        if dtype not in FLOATS:
            raise EffaceError(
                f"{self.path}: {name!r} is stored as {dtype}, which is no float: "
                "give an unquantised model"
            )
        try:
            with self.path.open("rb") as file:
                now = os.fstat(file.fileno())
                same = all(getattr(now, f) == getattr(self._seen, f) for f in IDENTITY)
                held = mmap(-1, stop - start) if same and stop > start else bytearray()
                file.seek(start)
                whole = same and file.readinto(held) == stop - start
        except OSError as error:
            raise EffaceError(f"{self.path} cannot be read ({error}): open it again") from error
        if not whole:
            raise EffaceError(f"{self.path} changed while it was read: open it again")
        if not held:
            return torch.empty(shape, dtype=FLOATS[dtype])
        return torch.frombuffer(held, dtype=FLOATS[dtype]).reshape(shape)


def _short(error: Exception, most: int = 120) -> str:
    """The start of a library's message, on one line: some list all that could have been."""
    said = " ".join(str(error).split())
    return said if len(said) <= most else f"{said[:most]}..."

"""Golden numbers: how recording scripts take an official repository as it is, and tests read them.

Nothing of those repositories stands here. A script names a checkout and, where what it wants is in
the middle of a function, the beginnings of two lines: what is between them is run as it stands.
"""

import copy
import json
import sys
import textwrap
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from efface.backbones.model import Model, open_folder

HERE = Path(__file__).parent
Sums = Mapping[str, tuple[float, float]]


def read(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `name`.safetensors holds, and its story."""
    with safe_open(HERE / f"{name}.safetensors", framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["parity"])


def write(name: str, tensors: Mapping[str, Tensor], story: Mapping[str, Any]) -> None:
    """The file that `read` reads."""
    held = {key: t.detach().contiguous().clone() for key, t in tensors.items()}
    told = {**story, "torch": torch.__version__}
    save_file(held, HERE / f"{name}.safetensors", {"parity": json.dumps(told)})


def sums(module: nn.Module) -> Sums:
    """Every parameter's sum and sum of squares: tells whether a model is the one recorded with."""
    return {
        name: (w.double().sum().item(), w.double().square().sum().item())
        for name, w in module.named_parameters()
    }


def same(module: nn.Module, recorded: Sums) -> bool:
    """Whether the parameters are those recorded with; if not, record again."""
    found = sums(module)
    return found.keys() == recorded.keys() and all(
        abs(one - other) <= 1e-9 * (1 + abs(other))
        for name in found
        for one, other in zip(found[name], recorded[name], strict=True)
    )


def unchanged(folder: Path, story: Mapping[str, Any]) -> Model:
    """The model in the folder, whose denoiser must be the one recorded with."""
    found = open_folder(folder)
    assert same(found.denoiser().module, story["model"]), "record again"
    return found


def lines(file: Path, begin: str, end: str, *, after: str = "") -> str:
    """Of a file, the line that begins so up to the one that ends so, both after `after`."""
    text = file.read_text().splitlines()
    at = [line.strip() for line in text]
    least = next(i for i, line in enumerate(at) if line.startswith(after))
    first = next(i for i in range(least, len(at)) if at[i].startswith(begin))
    last = next(i for i in range(first + 1, len(at)) if at[i].startswith(end))
    return textwrap.dedent("\n".join(text[first:last]))


def stand_in(*names: str) -> None:
    """Let `from a.b import c` succeed for what a checkout imports and what is run does not use."""
    for name in names:
        *path, leaf = name.split(".")
        for i in range(len(path)):
            sys.modules.setdefault(".".join(path[: i + 1]), types.ModuleType(path[i]))
        setattr(sys.modules[".".join(path)], leaf, MagicMock())


def double(module: nn.Module) -> Any:
    """A copy in float64."""
    return copy.deepcopy(module).double()

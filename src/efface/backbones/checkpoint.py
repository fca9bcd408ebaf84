"""A lazy view of a checkpoint folder: configs, and tensors by name without building the model.

Only safetensors are read. A file whose header lies or that ends early is refused by the reader
itself, before anything of its claimed size is allocated.
"""

import json
from collections.abc import Mapping
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from efface.backbones.single_file import PICKLES, check_path
from efface.backbones.tensor_file import FLOATS, TensorFile
from efface.core import EffaceError

DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    SafetensorError,
)
"""What the libraries raise on a folder whose files do not fit together."""
VOCABULARIES = (("vocab.json", "merges.txt"), ("spiece.model",), ("tokenizer.model",))
"""Files that hold a tokenizer's words where there is no tokenizer.json."""
COMPONENTS = ("unet", "transformer")
"""Where a pipeline may hold its denoiser."""
BUNDLED = Path(__file__).parents[1] / "models"
"""Folder of the models that ship with efface."""
FILES = (".safetensors", ".gguf", *PICKLES)
"""How the names of single files end, those that are refused too."""


def bundled() -> dict[str, Path]:
    """Name -> folder of every model in the box."""
    return {p.parent.name: p.parent for p in sorted(BUNDLED.glob("*/model_index.json"))}


def resolve(spec: str) -> Path:
    """The local folder of a bundled name, a diffusers folder or a hub id; or a checkpoint file."""
    if spec in bundled():
        return bundled()[spec]
    try:
        path = Path(spec).expanduser()
        if (path / "model_index.json").is_file():
            return path
        if path.is_file() or path.suffix.lower() in FILES:
            check_path(path)
            return path
        there = path.exists()
    except (OSError, RuntimeError) as error:  # a name too long, no such user's home
        raise EffaceError(f"no model {spec!r} ({error}): give a diffusers folder") from error
    if there:
        raise EffaceError(
            f"{path} holds no model_index.json: give a diffusers folder, a hub id or 'emoji'"
        )
    if spec.count("/") != 1 or spec.startswith((".", "/", "~")):
        raise EffaceError(
            f"no model {spec!r}: give a diffusers folder, a checkpoint file, a hub id (owner/name) "
            "or 'emoji'"
        )
    return _from_hub(spec)


def check_drawable(path: Path) -> None:
    """Refuse a single file where a whole pipeline is needed."""
    if path.is_file():
        raise EffaceError(
            f"{path} is a single file, and pictures are drawn from diffusers folders: export the "
            "patch into the file, and draw with the tool that you use it in"
        )


def _from_hub(spec: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(spec, allow_patterns=["*.json", "*.txt", "*.model", "*.safetensors"])
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise EffaceError(
            f"cannot get {spec!r} from the hub ({type(error).__name__}): check name and network"
        ) from error


class Checkpoint:
    """One diffusers folder on disk."""

    ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
    """Components that read prompts."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._opened: dict[Path, TensorFile] = {}

    @cached_property
    def index(self) -> Mapping[str, Any]:
        """The pipeline's table of components."""
        return self.read_json(self.root / "model_index.json")

    @property
    def pipeline(self) -> str:
        """The pipeline's class."""
        return str(self.index.get("_class_name"))

    def denoiser(self) -> tuple[str, str]:
        """Component and class of the denoiser."""
        for component in COMPONENTS:
            match self.index.get(component):
                case [_, str(denoiser)]:
                    return component, denoiser
        raise EffaceError(
            f"{self.root} has neither unet nor transformer: not a text-to-image model"
        )

    def encoders(self) -> list[str]:
        """The text encoders that are there."""
        return [e for e in self.ENCODERS if (self.index.get(e) or [None])[0] is not None]

    def config(self, component: str) -> Mapping[str, Any]:
        """A component's config."""
        return self.read_json(self.root / component / "config.json")

    @staticmethod
    def read_json(path: Path) -> Mapping[str, Any]:
        """A JSON object, or one sentence on what is wrong with it."""
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise EffaceError(f"{path} is missing: the model folder is incomplete") from error
        except (OSError, ValueError, RecursionError) as error:
            raise EffaceError(
                f"{path} cannot be read as JSON ({error}): the model folder is damaged"
            ) from error
        if not isinstance(value, dict):
            raise EffaceError(f"{path} is not a JSON object: the model folder is damaged")
        return value

    def files(self, component: str) -> list[Path]:
        """A component's safetensors files: full precision where both are there, shards in order."""
        folder = self.root / component
        for stem in ("diffusion_pytorch_model", "model"):
            for variant in ("", ".fp16"):
                whole = folder / f"{stem}{variant}.safetensors"
                index = folder / f"{stem}.safetensors.index{variant}.json"
                if whole.is_file():
                    return [whole]
                if index.is_file():
                    shards = self.read_json(index).get("weight_map")
                    if not isinstance(shards, dict) or not shards:
                        raise EffaceError(f"{index} lists no files: the model folder is damaged")
                    return [folder / str(shard) for shard in sorted(set(shards.values()))]
        raise EffaceError(
            f"{folder} holds no .safetensors weights: convert the model or download it again"
        )

    def weighted(self) -> list[str]:
        """Components that have weights."""
        return [part for part in self.index if any((self.root / part).glob("*.safetensors"))]

    def variant(self, component: str) -> str | None:
        """The word that the libraries want to load `files`: None or "fp16"."""
        return "fp16" if ".fp16" in self.files(component)[0].name else None

    def check(self) -> None:
        """Refuse a folder with a missing or damaged part, before anything is built from it."""
        for component, kind in self.index.items():
            if not isinstance(kind, list) or kind[:1] == [None]:
                continue
            folder = self.root / component
            if not folder.is_dir():
                raise EffaceError(f"{folder} is missing: the model folder is incomplete")
            for path in sorted(folder.glob("*.json")):
                self.read_json(path)
            if any(folder.glob("*.safetensors*")):
                self.where(component)
            if component.startswith("tokenizer"):
                self.check_tokenizer(component)

    def check_tokenizer(self, component: str) -> None:
        """Without its words a tokenizer loads all the same, and knows nothing."""
        folder = self.root / component
        self.read_json(folder / "tokenizer_config.json")
        if (folder / "tokenizer.json").is_file():
            self.read_json(folder / "tokenizer.json")
        elif not any(all((folder / n).is_file() for n in names) for names in VOCABULARIES):
            raise EffaceError(f"{folder} holds no tokenizer.json: the model folder is incomplete")

    def where(self, component: str) -> dict[str, Path]:
        """Tensor name -> file, for every tensor of a component."""
        return {name: file for file in self.files(component) for name in self.open(file).header}

    def dtype(self, component: str) -> torch.dtype:
        """The narrowest dtype that holds a component's weights; its config may say another."""
        words = {t.dtype for file in self.files(component) for t in self.open(file).header.values()}
        wide = [FLOATS[word] for word in words & FLOATS.keys() if FLOATS[word].itemsize > 1]
        return reduce(torch.promote_types, wide) if wide else torch.float32

    def tensor(self, file: Path, name: str) -> Tensor:
        """One tensor as it is stored."""
        return self.open(file).read(name)

    def open(self, file: Path) -> TensorFile:
        """A reader of a safetensors file, or one sentence on why there is none."""
        if file not in self._opened:
            if not file.exists():
                raise EffaceError(f"{file} is missing: the model folder is incomplete")
            self._opened[file] = TensorFile(file)
        return self._opened[file]

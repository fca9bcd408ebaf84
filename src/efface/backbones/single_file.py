"""A lazy view of one .safetensors file with the original (LDM, CompVis, ComfyUI) tensor names.

Opening reads the header; a tensor is read when it is asked for, and no denoiser is built. What
diffusers keeps in folders and such a file lacks is the tokenizer: `SingleFile.tokenizer_folder`.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from torch import Tensor

from efface.backbones.encoder_weights import TextEncoder, fit
from efface.backbones.ldm_encoders import LAYOUTS, NORMS, PROJECTION, Layout, pieces
from efface.backbones.ldm_names import Kind, Shapes, recognise
from efface.backbones.tensor_file import FLOATS, TensorFile
from efface.core import EffaceError

SCALES = (".scale_weight", ".weight_scale")
"""Endings of the factors that stand beside scaled 8-bit weights."""
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
TOKENIZER = "openai/clip-vit-large-patch14"
"""All CLIP text encoders of these families share its vocabulary."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")


class SingleFile:
    """One checkpoint file on disk."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        check_path(self.path)
        self._file = TensorFile(self.path)
        self.header = self._file.header
        """Tensor name -> stored dtype and shape."""
        if "efface" in self._file.metadata:
            raise EffaceError(f"{self.path} is a patch that efface wrote: give its base model")

    @property
    def shapes(self) -> Shapes:
        """Tensor name -> shape."""
        return {name: stored.shape for name, stored in self.header.items()}

    @cached_property
    def _kind(self) -> Kind:
        return recognise(self.shapes, str(self.path))

    @property
    def kind(self) -> str:
        """One of sd1, sd2, sdxl, sd3, flux."""
        return self._kind.name

    @property
    def component(self) -> str:
        """The diffusers component of its denoiser: unet or transformer."""
        return self._kind.component

    @property
    def denoiser(self) -> str:
        """The diffusers class of its denoiser."""
        return self._kind.denoiser

    def readers(self) -> Mapping[str, str]:
        """Diffusers name -> stored name, of every matrix that text first enters."""
        for name in self._kind.readers.values():
            self._check_weight(name)
            if len(shape := self.header[name].shape) != 2:
                raise EffaceError(
                    f"{self.path}: {name!r} of shape {list(shape)} is no matrix: "
                    "give an unquantised checkpoint"
                )
        return self._kind.readers

    def _check_weight(self, name: str) -> None:
        """Refuse quantised weights: their numbers are not the model's."""
        dtype = self.header[name].dtype
        scaled = any(name.removesuffix(".weight") + end in self.header for end in SCALES)
        if dtype not in FLOATS or scaled:
            raise EffaceError(
                f"{self.path}: {name!r} is quantised ({'scaled ' if scaled else ''}{dtype}): "
                "give an unquantised checkpoint"
            )

    def tensor(self, name: str) -> Tensor:
        """One tensor as it is stored."""
        if name not in self.header:
            raise EffaceError(f"{self.path} has no tensor {name!r}: ask for a name in its header")
        self._check_weight(name)
        return self._file.read(name)

    def text_encoders(self) -> Mapping[str, Layout]:
        """Diffusers component -> where the file holds it; empty for a denoiser alone."""
        return {
            layout.which: layout
            for layout in LAYOUTS[self.kind]
            if any(name.startswith(layout.prefix) for name in self.header)
        }

    def text_encoder(self, which: str = "text_encoder") -> TextEncoder:
        """A text encoder, all of its tensors read."""
        layout = self._layout(which)
        config, found = fit(layout, self.shapes, str(self.path))
        read = {stored: self.tensor(stored) for stored in {p.stored for p in found.values()}}
        state = {name: piece.of(read[piece.stored]) for name, piece in found.items()}
        return TextEncoder(layout.model, config, state)

    def _layout(self, which: str) -> Layout:
        held = self.text_encoders()
        if which not in held:
            there = f"its encoders are {', '.join(held)}" if held else "it holds none"
            raise EffaceError(
                f"{self.path} holds no {which} ({there}): "
                "give the diffusers folder of the model instead"
            )
        return held[which]

    def norms(self, which: str) -> list[Tensor]:
        """Weight and bias, if it has one, of the norm that an encoder's last states leave."""
        found = pieces(layout := self._layout(which), self.shapes)
        norm = NORMS[layout.style]
        if f"{norm}.weight" not in found:
            raise EffaceError(f"{self.path}: its {which} lacks {norm!r}: download it again")
        names = [name for end in ("weight", "bias") if (name := f"{norm}.{end}") in found]
        return [self.tensor(found[name].stored) for name in names]

    def projected_width(self, which: str = "text_encoder_2") -> int:
        """Numbers in an encoder's pooled row."""
        found = pieces(self._layout(which), self.shapes).get(PROJECTION)
        if found is None or not (shape := found.shape(self.shapes)):
            raise EffaceError(f"{self.path}: its {which} lacks {PROJECTION!r}: download it again")
        return shape[0]

    def tokenizer_folder(self, given: Path | None = None, which: str = "tokenizer") -> Path:
        """Where the tokenizer lies: in a folder given by the user, else in Hugging Face's cache.

        `given` is a diffusers folder or its tokenizer folder. Nothing is downloaded. A CLIP
        tokenizer pads as CLIP-L wants it; OpenCLIP encoders want `config["pad_token_id"]`.
        """
        if given is not None:
            places = (given / which, given / "tokenizer", given)
            for place in places if self._reads_clip(which) else (given / which, given):
                if _holds_tokenizer(place):
                    return place
            raise EffaceError(
                f"{given} holds no {which}: give a diffusers folder of the same family"
            )
        remedy = "give a diffusers folder of the same family that has it with --tokenizer"
        if self._reads_clip(which):
            if cached := _cached_tokenizer():
                return cached
            remedy += f", or run: hf download {TOKENIZER} {' '.join(TOKENIZER_FILES)}"
        raise EffaceError(f"{self.path} brings no {which}, as no single file does: {remedy}")

    def _reads_clip(self, which: str) -> bool:
        encoder = which.replace("tokenizer", "text_encoder")
        return not any(a.which == encoder and a.style == "t5" for a in LAYOUTS[self.kind])


def check_path(path: Path) -> None:
    """Refuse what is no safetensors file, by its name and without opening it."""
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        raise EffaceError(
            f"{path} is a pickle, which runs code when it is opened: convert it once to "
            ".safetensors in a throw-away environment, with diffusers or safetensors"
        )
    if suffix != ".safetensors":
        raise EffaceError(f"{path} is no .safetensors file: give one, or a diffusers folder")
    try:
        there, regular = path.exists(), path.is_file()
    except OSError as error:  # a name too long, a folder closed to us
        raise EffaceError(f"no file {str(path)!r} ({error}): give a checkpoint file") from error
    if not regular:
        what = "is not a regular file" if there else "does not exist"
        raise EffaceError(f"{path} {what}: give the path of a checkpoint file")


def _holds_tokenizer(folder: Path) -> bool:
    whole = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",))
    return any(all((folder / name).is_file() for name in names) for names in whole)


def _cached_tokenizer() -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for name in ("tokenizer.json", "vocab.json"):
        found = try_to_load_from_cache(TOKENIZER, name)
        if isinstance(found, str) and _holds_tokenizer(Path(found).parent):
            return Path(found).parent
    return None

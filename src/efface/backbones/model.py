"""The half of a model that closed-form erasing needs: tokenizer, text encoder, text readers.

A `Model` is opened from a folder, where tensors stay on disk until asked for, or from a live
pipeline, whose own tensors are used. Both give the same numbers and the same fingerprint.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from efface.backbones.checkpoint import DAMAGE, Checkpoint, resolve
from efface.backbones.sites import family, reader_names
from efface.core import EffaceError, Ellipsoid, Encoded

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


EVERYDAY = (
    "person", "face", "hand", "dog", "cat", "bird", "tree", "flower", "mountain", "ocean", "sky",
    "house", "street", "car", "chair", "table", "book", "food", "fruit", "dress", "painting",
    "photo", "night", "winter",
)  # fmt: skip
"""Kept by default where a model does not bring a `concepts.json` of its own."""
REMEMBERED = 8
"""Lists of prompts whose rows a frozen model keeps: a fit asks for the same few again and again."""
TWO_ENCODERS = "it reads text from two encoders, efface knows models with one"


class Model:
    """Implements `core.Backbone` for pipelines with one text encoder."""

    streams = ("text",)

    def __init__(
        self,
        load_text: Callable[[], tuple[Any, Any]],
        names: Sequence[str],
        fetch: Callable[[str], Tensor],
        component: str,
        vocabulary: Sequence[str] = EVERYDAY,
        *,
        frozen: bool = False,
    ) -> None:
        """`frozen`: nobody else holds the text encoder, so what it said once it will say again."""
        self._load_text = load_text
        self._names, self._fetch, self.component = names, fetch, component
        self.vocabulary = tuple(vocabulary)
        """Words the model should go on drawing, whatever is erased."""
        self._said: OrderedDict[tuple[str, ...], Encoded] | None = OrderedDict() if frozen else None

    @cached_property
    def _text(self) -> tuple[Any, Any]:
        return self._load_text()

    @property
    def tokenizer(self) -> Any:
        """The pipeline's tokenizer."""
        return self._text[0]

    @property
    def text_encoder(self) -> Any:
        """The pipeline's text encoder."""
        return self._text[1]

    def readers(self, stream: str = "text") -> Iterator[tuple[str, Float[Tensor, "out width"]]]:
        """Name and weight of every matrix that first consumes the stream, one at a time."""
        self._check(stream)
        for name in self._names:
            yield f"{self.component}/{name}", self._fetch(name)

    def _check(self, stream: str) -> None:
        if stream not in self.streams:
            raise EffaceError(
                f"no text stream {stream!r} in this model: it has {', '.join(self.streams)}"
            )

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the text-reading matrices and the encoder's last norm, in two roundings.

        A checkpoint keeps one of its halves when it is loaded in another precision: `same_base`.
        """
        half, brain = hashlib.sha256(), hashlib.sha256()
        norm = self._final_norm()
        for _, tensor in [*self.readers(), ("scale", norm.weight), ("shift", norm.bias)]:
            held = tensor.detach().cpu()
            half.update(held.to(torch.float16).contiguous().numpy().tobytes())
            brain.update(held.to(torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())
        return f"{half.hexdigest()[:16]}-{brain.hexdigest()[:16]}"

    def _final_norm(self) -> Any:
        encoder = self.text_encoder
        return getattr(encoder, "text_model", encoder).final_layer_norm

    def encode(self, prompts: Sequence[str], stream: str = "text") -> Encoded:
        """Rows of several prompts in float32, padded and truncated as the pipeline does."""
        self._check(stream)
        if self._said is None:
            return self._encode(prompts)
        key = tuple(prompts)
        if key not in self._said:
            self._said[key] = self._encode(prompts)
        self._said.move_to_end(key)
        if len(self._said) > REMEMBERED:
            self._said.popitem(last=False)
        return self._said[key]

    def _encode(self, prompts: Sequence[str]) -> Encoded:
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        masked = getattr(self.text_encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask.to(self.text_encoder.device) if masked else None
        with torch.no_grad():
            out = self.text_encoder(
                tokens.input_ids.to(self.text_encoder.device), attention_mask=mask
            )
        last = (tokens.attention_mask.sum(1) - 2).clamp(min=0)
        return Encoded(out.last_hidden_state.float().cpu(), last)

    def gram(self, stream: str = "text") -> Float[Tensor, "width width"]:
        """G = sum of WᵀW over the readers, float64."""
        total: Tensor | None = None
        for _, weight in self.readers(stream):
            wide = weight.detach().cpu().double()
            product = wide.T @ wide
            total = product if total is None else total + product
        assert total is not None
        return total

    def ellipsoid(self, stream: str = "text") -> Ellipsoid:
        """Rows leave the encoder's last LayerNorm."""
        self._check(stream)
        norm = self._final_norm()
        return Ellipsoid(
            norm.weight.detach().double().cpu(), norm.bias.detach().double().cpu(), centred=True
        )


def open_model(source: "str | Path | DiffusionPipeline") -> Model:
    """The text side of a bundled name, folder, hub id or live pipeline."""
    return (
        open_folder(resolve(str(source)))
        if isinstance(source, str | Path)
        else open_pipeline(source)
    )


def open_folder(root: Path) -> Model:
    """Read from disk, matrix by matrix; the denoiser is never built."""
    checkpoint = Checkpoint(root)
    component, denoiser = _denoiser(checkpoint)
    kind = family(denoiser, str(root))
    if checkpoint.index.get("text_encoder_2", [None])[0] is not None:
        raise EffaceError(f"{root}: {TWO_ENCODERS}")
    where = checkpoint.where(component)
    names = reader_names(kind, where, str(root))

    def load_text() -> tuple[Any, Any]:
        from transformers import CLIPTextModel, CLIPTokenizer

        checkpoint.where("text_encoder")
        checkpoint.config("text_encoder")
        checkpoint.check_tokenizer()
        try:
            tokenizer = CLIPTokenizer.from_pretrained(root / "tokenizer", local_files_only=True)
            loaded: Any = CLIPTextModel.from_pretrained(
                root / "text_encoder",
                local_files_only=True,
                use_safetensors=True,
                variant=checkpoint.variant("text_encoder"),
                dtype=torch.float32,
                output_loading_info=True,
            )
        except DAMAGE as error:
            raise EffaceError(
                f"{root}: its text side does not load ({error}): download it again"
            ) from error
        encoder, found = loaded
        if lost := found["missing_keys"]:
            raise EffaceError(f"{root / 'text_encoder'} lacks {min(lost)!r}: download it again")
        if tokenizer.model_max_length > encoder.config.max_position_embeddings:
            tokenizer.model_max_length = encoder.config.max_position_embeddings
        return tokenizer, encoder.eval()

    return Model(
        load_text,
        names,
        lambda name: checkpoint.tensor(where[name], name),
        component,
        vocabulary(root),
        frozen=True,
    )


def vocabulary(root: Path) -> tuple[str, ...]:
    """The words of the model's `concepts.json`, else everyday ones."""
    path = root / "concepts.json"
    if not path.is_file():
        return EVERYDAY
    lists = list(Checkpoint.read_json(path).values())
    if not all(isinstance(words, list) for words in lists):
        raise EffaceError(f"{path} is not lists of words by kind: the model folder is damaged")
    return tuple(str(w) for words in lists for w in words)


def _denoiser(checkpoint: Checkpoint) -> tuple[str, str]:
    for component in ("unet", "transformer"):
        match checkpoint.index.get(component):
            case [_, str(denoiser)]:
                return component, denoiser
    raise EffaceError(
        f"{checkpoint.root} has neither unet nor transformer: not a text-to-image model"
    )


def open_pipeline(pipe: "DiffusionPipeline") -> Model:
    """Use a live pipeline's own tensors."""
    kind = type(pipe).__name__
    parts = [c for c in ("unet", "transformer") if getattr(pipe, c, None) is not None]
    if not parts:
        raise EffaceError(f"{kind} has neither unet nor transformer: not a text-to-image model")
    if getattr(pipe, "text_encoder_2", None) is not None:
        raise EffaceError(f"{kind}: {TWO_ENCODERS}")
    component = parts[0]
    denoiser = getattr(pipe, component)
    tensors = dict(denoiser.named_parameters())
    names = reader_names(family(type(denoiser).__name__, kind), tensors, kind)
    origin = pipe.config.get("_name_or_path")
    words = vocabulary(Path(origin)) if origin else EVERYDAY
    return Model(
        lambda: (pipe.tokenizer, pipe.text_encoder), names, tensors.__getitem__, component, words
    )

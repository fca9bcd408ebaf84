"""The half of a model that closed-form erasing needs: tokenizers, text encoders, text readers.

A `Model` is opened from a folder, where tensors stay on disk until asked for, or from a live
pipeline, whose own tensors are used; from a single file, see `efface.backbones.open`. All give the
same numbers and the same fingerprint.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from efface.backbones.checkpoint import COMPONENTS, Checkpoint
from efface.backbones.encoders import Clip
from efface.backbones.gram import cached, gram
from efface.backbones.parts import load_parts
from efface.backbones.sites import Family, Site, family, reader_names
from efface.backbones.text import TextSide
from efface.backbones.token_reader import TokenReader
from efface.core import EffaceError, Ellipsoid, Encoded
from efface.tokens import each, together

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


EVERYDAY = (
    "person", "face", "hand", "dog", "cat", "bird", "tree", "flower", "mountain", "ocean", "sky",
    "house", "street", "car", "chair", "table", "book", "food", "fruit", "dress", "painting",
    "photo", "night", "winter",
)  # fmt: skip
"""Kept by default where a model does not bring a `concepts.json` of its own."""
REMEMBERED = 1 << 28
"""Numbers that a frozen model keeps of what it said: a fit asks for the same prompts repeatedly."""
BATCH = 32
"""Prompts encoded at once."""
Said = Mapping[str, Encoded]
"""What one prompt gives on every stream."""


class Words(NamedTuple):
    """What a model is known to draw."""

    vocabulary: tuple[str, ...]
    """Words it should go on drawing, whatever is erased."""
    things: tuple[str, ...]
    """Those that name things, which a style can be said of."""
    synonyms: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    """Word -> other words for the same."""


class Reader(NamedTuple):
    """A matrix that first consumes a text stream."""

    stream: str
    width: int | None
    """Its leading columns that read the stream; None: all of them."""


class Model:
    """Implements `core.Backbone`."""

    def __init__(
        self,
        kind: Family,
        where: Mapping[str, Reader],
        names: Collection[str],
        fetch: Callable[[str], Tensor],
        load_text: Callable[[], TextSide],
        words: Words,
        *,
        norms: Callable[[], Iterable[Tensor]] | None = None,
        frozen: bool = False,
        pipe: "DiffusionPipeline | None" = None,
    ) -> None:
        """`where`: names of the readers; `names`: of the denoiser's tensors, which `fetch` gets.

        `norms`: the encoders' last norms, where they can be had without the encoders. `frozen`:
        nobody else changes the text encoders, so what they said once they will say again. `pipe`:
        the live pipeline whose text side this is.
        """
        self.pipe = pipe
        self.kind, self.where, self.names = kind, where, names
        self._fetch, self._load_text, self._norms = fetch, load_text, norms
        self.vocabulary, self.things, self.synonyms = words
        self._said: OrderedDict[str, Said] | None = OrderedDict() if frozen else None
        self._grams: dict[str, Tensor] = {}
        self._ellipsoids: Mapping[str, tuple[Ellipsoid, ...]] | None = None

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the text streams the denoiser reads."""
        return tuple(self.kind.streams)

    @property
    def component(self) -> str:
        """The pipeline component that reads text."""
        return self.kind.component

    @cached_property
    def text(self) -> TextSide:
        """Tokenizers and text encoders."""
        return self._load_text()

    @cached_property
    def token_reader(self) -> TokenReader:
        """Token sequences to rows, for models with one CLIP text encoder."""
        if self.kind.name != "sd":
            raise EffaceError(
                f"tokens are searched for Stable Diffusion 1 and 2, not {self.kind.name}: leave "
                "that attack out"
            )
        [clip] = self.text.encoders
        assert isinstance(clip, Clip)
        return TokenReader(clip.tokenizer, clip.model, clip.length)

    def readers(self, stream: str = "text") -> Iterator[tuple[str, Float[Tensor, "out width"]]]:
        """Name and weight of every matrix that first consumes the stream, one at a time.

        Of a matrix that reads more than the stream, the columns that read the stream.
        """
        self._check(stream)
        for name, reader in self.where.items():
            if reader.stream == stream:
                yield name, self._fetch(name)[:, : reader.width]

    def weight(self, name: str) -> Tensor:
        """A tensor of the denoiser, by component/name."""
        return self._fetch(name)

    def _check(self, stream: str) -> None:
        if stream not in self.streams:
            raise EffaceError(
                f"no text stream {stream!r} in this model: it has {', '.join(self.streams)}"
            )

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the text-reading matrices and the encoders' last norms, in two roundings.

        A checkpoint keeps one of its halves when it is loaded in another precision: `same_base`.
        """
        half, brain = hashlib.sha256(), hashlib.sha256()
        for tensor in self._identity():
            held = tensor.detach().cpu()
            half.update(held.to(torch.float16).contiguous().numpy().data)
            brain.update(held.to(torch.bfloat16).contiguous().view(torch.int16).numpy().data)
        return f"{half.hexdigest()[:16]}-{brain.hexdigest()[:16]}"

    def _identity(self) -> Iterator[Tensor]:
        """The tensors that say which model this is."""
        for stream in self.streams:
            yield from (weight for _, weight in self.readers(stream))
        if self._norms is not None:
            yield from self._norms()
            return
        for encoder in self.text.encoders:
            yield from encoder.norm.parameters()

    def encode(self, prompts: Sequence[str], stream: str = "text") -> Encoded:
        """Rows of several prompts in float32, padded and truncated as the pipeline does."""
        self._check(stream)
        if self._said is None:
            return together([said[stream] for said in self._encode(prompts)])
        new = [p for p in dict.fromkeys(prompts) if p not in self._said]
        self._said.update(zip(new, self._encode(new), strict=True))
        for prompt in prompts:
            self._said.move_to_end(prompt)
        found = together([self._said[p][stream] for p in prompts])
        self._forget()
        return found

    def _encode(self, prompts: Sequence[str]) -> list[Said]:
        said = list[Said]()
        for i in range(0, len(prompts), BATCH):
            chunk = prompts[i : i + BATCH]
            streams = {name: each(rows) for name, rows in self.text.encode(chunk).items()}
            said += [{name: next(rows) for name, rows in streams.items()} for _ in chunk]
        return said

    def _forget(self) -> None:
        """Drop what was longest not asked for, until the rest is small enough."""
        assert self._said is not None
        size = sum(e.states.numel() for said in self._said.values() for e in said.values())
        while size > REMEMBERED:
            _, said = self._said.popitem(last=False)
            size -= sum(e.states.numel() for e in said.values())

    def gram(self, stream: str = "text") -> Float[Tensor, "width width"]:
        """G = sum of WᵀW over the readers, float64; cached on disk where it takes long to form."""
        if self._said is None:
            return gram(weight for _, weight in self.readers(stream))
        if stream not in self._grams:
            _, first = next(self.readers(stream))
            count = sum(reader.stream == stream for reader in self.where.values())
            self._grams[stream] = cached(
                f"{self.fingerprint}-{stream}",
                first.shape[1],
                count,
                lambda: gram(weight for _, weight in self.readers(stream)),
            )
        return self._grams[stream]

    def ellipsoids(self, stream: str = "text") -> tuple[Ellipsoid, ...]:
        """Where rows of the stream lie: on any of these."""
        self._check(stream)
        found = self._ellipsoids or self.text.ellipsoids()
        if self._said is not None:  # frozen: a large encoder takes seconds to sample
            self._ellipsoids = found
        return found[stream]


def open_folder(root: Path) -> Model:
    """Read from disk, matrix by matrix; the denoiser is never built."""
    checkpoint = Checkpoint(root)
    component, denoiser = checkpoint.denoiser()
    kind = family(checkpoint.pipeline, denoiser, checkpoint.encoders(), str(root))
    files = checkpoint.where(component)

    def fetch(name: str) -> Tensor:
        bare = name.removeprefix(f"{component}/")
        return checkpoint.tensor(files[bare], bare)

    return Model(
        kind,
        readers(
            kind,
            files,
            lambda site: site.width and site.width(checkpoint.config(component)),
            str(root),
        ),
        [f"{component}/{name}" for name in files],
        fetch,
        lambda: kind.text(load_parts(checkpoint, kind)),
        words_of(root),
        frozen=True,
    )


def readers(
    kind: Family,
    names: Collection[str],
    width: Callable[[Site], int | None],
    model: str,
) -> dict[str, Reader]:
    """Every matrix that reads text, as component/name, stream by stream.

    `width`: the columns that read the stream, where a site's matrices read more; else None.
    """
    return {
        f"{kind.component}/{name}": Reader(stream, width(site))
        for stream, site in kind.streams.items()
        for name in reader_names(kind, stream, names, model)
    }


def words_of(root: Path | None) -> Words:
    """The words of the model's `concepts.json`, else everyday ones; of its `synonyms.json`."""
    if root is None or not (path := root / "concepts.json").is_file():
        return Words(EVERYDAY, EVERYDAY)
    lists = Checkpoint.read_json(path)
    if not all(isinstance(words, list) for words in lists.values()):
        raise EffaceError(f"{path} is not lists of words by kind: the model folder is damaged")
    every = tuple(str(w) for words in lists.values() for w in words)
    others = root / "synonyms.json"
    known = Checkpoint.read_json(others) if others.is_file() else {}
    synonyms = {str(word): tuple(map(str, ways)) for word, ways in known.items()}
    return Words(every, tuple(map(str, lists.get("concepts", []))), synonyms)


def open_pipeline(pipe: "DiffusionPipeline", *, frozen: bool = False) -> Model:
    """Use a live pipeline's own tensors; `frozen`: nobody will change them meanwhile."""
    name = type(pipe).__name__
    component = next((c for c in COMPONENTS if getattr(pipe, c, None) is not None), None)
    if component is None:
        raise EffaceError(f"{name} has neither unet nor transformer: not a text-to-image model")
    denoiser = getattr(pipe, component)
    encoders = [e for e in Checkpoint.ENCODERS if getattr(pipe, e, None) is not None]
    kind = family(name, type(denoiser).__name__, encoders, name)
    tensors = {f"{component}/{n}": p for n, p in denoiser.named_parameters()}
    bare = [n.removeprefix(f"{component}/") for n in tensors]
    origin = pipe.config.get("_name_or_path")
    return Model(
        kind,
        readers(kind, bare, lambda site: site.width and site.width(denoiser.config), name),
        tensors,
        tensors.__getitem__,
        lambda: kind.text({part: getattr(pipe, part) for part in kind.parts()}),
        words_of(Path(origin) if origin else None),
        frozen=frozen,
        pipe=pipe,
    )

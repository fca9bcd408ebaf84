"""One model as erasers see it: tokenizers, text encoders, text readers; the denoiser on demand.

A `Model` is opened from a folder, where tensors stay on disk until asked for, or from a live
pipeline, whose own tensors are used; from a single file, see `efface.backbones.open`. All give the
same numbers and the same fingerprint.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from efface.backbone import Denoiser, Speaker
from efface.backbones.checkpoint import COMPONENTS, Checkpoint
from efface.backbones.denoiser import live_denoiser, load_denoiser, uncompiled
from efface.backbones.encoders import Clip
from efface.backbones.fingerprint import roundings
from efface.backbones.gram import cached, gram
from efface.backbones.layers import hear, identity, sites
from efface.backbones.parts import load_norms, load_parts
from efface.backbones.readers import Reader, readers
from efface.backbones.sites import Family, family
from efface.backbones.speaker import LiveSpeaker, spoken
from efface.backbones.text import TextSide
from efface.backbones.token_reader import TokenReader
from efface.backbones.words import Words, words_of
from efface.core import EffaceError, Ellipsoid, Encoded, Heard, Said
from efface.tokens import each, together

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


REMEMBERED = 1 << 28
"""Numbers that a frozen model keeps of what it said: a fit asks for the same prompts repeatedly."""
BATCH = 32
"""Prompts encoded at once."""


class Model:
    """Implements `efface.backbone.Backbone`."""

    def __init__(
        self,
        kind: Family,
        where: Mapping[str, Reader],
        names: Collection[str],
        fetch: Callable[[str], Tensor],
        load_text: Callable[[int], TextSide],
        words: Words,
        *,
        load_denoiser: Callable[[], Denoiser],
        norms: Callable[[], Iterable[Tensor]] | None = None,
        frozen: bool = False,
        pipe: "DiffusionPipeline | None" = None,
    ) -> None:
        """`where`: names of the readers; `names`: of all tensors that `fetch` gets.

        `load_text` is told how wide the rows are that the denoiser reads.
        `norms`: the encoders' last norms, where they can be had without the encoders. `frozen`:
        nobody else changes the text encoders, so what they said once they will say again. `pipe`:
        the live pipeline whose text side this is.
        """
        self.pipe = pipe
        self.kind, self.where, self.names = kind, where, names
        self._fetch, self._load_text, self._norms = fetch, load_text, norms
        self._load_denoiser = load_denoiser
        self.vocabulary, self.things, self.synonyms, own = words
        self.own_words = self.vocabulary if own else ()
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
        _, weight = next(self.readers())
        return self._load_text(weight.shape[1])

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

    def denoiser(self) -> Denoiser:
        """The live denoiser, loaded when it is first asked for."""
        return self._denoiser

    @cached_property
    def _denoiser(self) -> Denoiser:
        return self._load_denoiser()

    def speaker(self) -> Speaker:
        """The live text encoders."""
        return self._speaker

    @cached_property
    def _speaker(self) -> Speaker:
        return LiveSpeaker(self.kind, self.text, next(self.readers())[1].shape[1])

    def readers(self, stream: str = "text") -> Iterator[tuple[str, Float[Tensor, "out width"]]]:
        """Name and weight of every matrix that first consumes the stream, one at a time.

        Of a matrix that reads more than the stream, the columns that read the stream.
        """
        self._check(stream)
        for name, reader in self.where.items():
            if reader.stream == stream:
                yield name, self._fetch(name)[:, : reader.width]

    def weight(self, name: str) -> Tensor:
        """A tensor of the denoiser or a text encoder."""
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
        return roundings(self._identity())

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

    def prepare(self, prompts: Sequence[str]) -> None:
        """Encode at once what will be asked for piece by piece, if one pass does and is remembered.

        Every pass reads all of an encoder, which for few prompts is half of the work.
        """
        if self._said is not None and len(set(prompts) - self._said.keys()) <= BATCH:
            self.encode(prompts)

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

    def text_layers(self) -> Mapping[str, tuple[str, ...]]:
        """Text encoder -> the sites of its layers, first to last; those that a gate can read."""
        return sites(self.kind.encoders, self.text)

    def heard(self, prompts: Sequence[str], site: str) -> Heard:
        """What a layer of a text encoder puts out for prompts, in the denoiser's own padding."""
        return hear(self.kind.encoders, self.text, prompts, site, BATCH)

    def reads(self, site: str) -> str:
        """Content hash of the weights that a site's output comes through.

        Of a text encoder's layer: all up to it. Of a module of the denoiser: its own.
        """
        if site.partition("/")[0] != self.component:
            return identity(self.kind.encoders, self.text, site)
        inside = sorted(name for name in self.names if name.startswith(f"{site}."))
        if not inside:
            raise EffaceError(f"the model has no module {site!r} with weights")
        return roundings(self._fetch(name) for name in inside)


def open_folder(root: Path) -> Model:
    """Read from disk, matrix by matrix; the denoiser is never built."""
    checkpoint = Checkpoint(root)
    component, denoiser = checkpoint.denoiser()
    kind = family(checkpoint.pipeline, denoiser, checkpoint.encoders(), str(root))
    where = readers(
        kind,
        checkpoint.where(component),
        lambda site: site.width and site.width(checkpoint.config(component)),
        str(root),
    )
    stored = spoken(
        (f"{part}/{name}", (file, name))
        for part in (component, *kind.encoders)
        for name, file in checkpoint.where(part).items()
    )

    def fetch(name: str) -> Tensor:
        return checkpoint.tensor(*stored[name])

    return Model(
        kind,
        where,
        stored,
        fetch,
        lambda width: kind.text({"width": width, **load_parts(checkpoint, kind)}),
        words_of(root),
        load_denoiser=lambda: load_denoiser(checkpoint, kind),
        norms=lambda: load_norms(checkpoint, kind),
        frozen=True,
    )


def open_pipeline(pipe: "DiffusionPipeline", *, frozen: bool = False) -> Model:
    """Use a live pipeline's own tensors; `frozen`: nobody will change them meanwhile."""
    name = type(pipe).__name__
    component = next((c for c in COMPONENTS if getattr(pipe, c, None) is not None), None)
    if component is None:
        raise EffaceError(f"{name} has neither unet nor transformer: not a text-to-image model")
    denoiser = uncompiled(getattr(pipe, component))
    encoders = [e for e in Checkpoint.ENCODERS if getattr(pipe, e, None) is not None]
    kind = family(name, type(denoiser).__name__, encoders, name)
    bare = [n for n, _ in denoiser.named_parameters()]
    parts = {component: denoiser} | {part: getattr(pipe, part) for part in kind.encoders}
    tensors = spoken(
        (f"{part}/{n}", p) for part, module in parts.items() for n, p in module.named_parameters()
    )
    origin = pipe.config.get("_name_or_path")
    return Model(
        kind,
        readers(kind, bare, lambda site: site.width and site.width(denoiser.config), name),
        tensors,
        tensors.__getitem__,
        lambda width: kind.text({"width": width} | {p: getattr(pipe, p) for p in kind.parts()}),
        words_of(Path(origin) if origin else None),
        frozen=frozen,
        pipe=pipe,
        load_denoiser=lambda: live_denoiser(pipe, kind),
    )

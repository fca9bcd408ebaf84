"""Prompts with free places: tokens that an attack may choose, said as embeddings until it has.

A place holds an embedding while it is sought and a token of the vocabulary in the end; a prompt is
given out only if its text is read as the very same tokens.
"""

from functools import lru_cache

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from efface.backbone import Backbone
from efface.backbones.model import Model
from efface.backbones.token_reader import TokenReader
from efface.core import EffaceError, Said


class Slots:
    """One prompt on one model."""

    def __init__(
        self, model: Backbone, words: Int[Tensor, "length"], free: Int[Tensor, "places"]
    ) -> None:
        """`words`: the prompt's tokens; `free`: which of them are chosen."""
        self.reader, self._speaker = reader_of(model), model.speaker()
        self.free, self._words = free, words
        self._ids = self.reader.whole(words[None])
        self._fixed = embeddings(model, self._ids[0])

    @property
    def vocabulary(self) -> Int[Tensor, "words"]:
        """Tokens that a place may take: whole words that come back from their text."""
        return self.reader.vocabulary

    def say(self, rows: Float[Tensor, "n places width"]) -> Said:
        """The prompt with these embeddings in its places, differentiable in them."""
        whole = self._fixed.expand(len(rows), -1, -1)
        places = (1 + self.free).to(whole.device)  # behind the start token
        whole = whole.index_copy(1, places, rows)
        return self._speaker.say_embedded(self._ids.expand(len(rows), -1), whole)

    def filled(self, tokens: Int[Tensor, "n places"]) -> Int[Tensor, "n length"]:
        """The prompt's tokens with these in its places."""
        return self._words.expand(len(tokens), -1).index_copy(1, self.free, tokens)

    def prompt(self, tokens: Int[Tensor, "places"]) -> str | None:
        """What to type; None where it would not be read as these tokens."""
        [words] = self.filled(tokens[None])
        return self.reader.text(words) if self.reader.survives(words) else None


def opened(model: Backbone) -> Model:
    """One of our own models, or one sentence on why no other will do."""
    if not isinstance(model, Model):
        raise EffaceError("tokens are read of a model that is opened from a pipeline or a folder")
    return model


def reader_of(model: Backbone) -> TokenReader:
    """The model's tokens."""
    return opened(model).token_reader


def embeddings(model: Backbone, tokens: Int[Tensor, "n"]) -> Float[Tensor, "n width"]:
    """Of any tokens, float32."""
    speaker = model.speaker()
    name = next(n for n in speaker.names() if n.endswith("token_embedding.weight"))
    held = speaker.weight(name).detach()
    return held[tokens.to(held.device)].float()


def table(model: Backbone) -> Float[Tensor, "words width"]:
    """Of the whole vocabulary; formed once a model, for it is large and many prompts need it."""
    return _table(opened(model))


@lru_cache(maxsize=2)
def _table(model: Model) -> Float[Tensor, "words width"]:
    return embeddings(model, model.token_reader.vocabulary)


def nearest(
    rows: Float[Tensor, "places width"], known: Float[Tensor, "words width"]
) -> Int[Tensor, "places"]:
    """Which rows of a table are nearest by cosine."""
    return (normalize(rows, dim=1) @ normalize(known, dim=1).T).argmax(1)

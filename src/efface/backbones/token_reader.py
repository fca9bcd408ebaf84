"""Token sequences to the rows of a CLIP text encoder, many at once, and back to text.

The encoder is causal, so rows up to a sequence's end do not depend on the padding behind it: where
only they are asked for, only they are run.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK = 256
"""Sequences run at once."""
WORD_END = "</w>"
"""How CLIP's vocabulary marks a token that ends a word."""


class TokenReader:
    """The tokens of one CLIP, of whose last states the text is made."""

    def __init__(self, tokenizer: Any, encoder: Any, length: int) -> None:
        """`length`: positions of a prompt."""
        self.tokenizer, self.encoder, self.length = tokenizer, encoder, length

    @cached_property
    def vocabulary(self) -> Int[Tensor, "words"]:
        """Tokens that are whole words, each of which comes back from its text as itself."""
        special = set(self.tokenizer.all_special_ids)
        ids = [
            i
            for token, i in sorted(self.tokenizer.get_vocab().items(), key=lambda item: item[1])
            if token.endswith(WORD_END) and i not in special
        ]
        texts = self.tokenizer.batch_decode([[i] for i in ids])
        back = self.tokenizer(texts, add_special_tokens=False).input_ids
        return torch.tensor([i for i, b in zip(ids, back, strict=True) if b == [i]])

    def words(self, prompt: str, length: int | None = None) -> Int[Tensor, "length"]:
        """A prompt's tokens; given a `length`, cut or filled up with its last to that."""
        found = self.tokenizer(prompt, add_special_tokens=False).input_ids
        if length is None:
            return torch.tensor(found, dtype=torch.long)
        filler = found[-1:] or [int(self.vocabulary[0])]
        return torch.tensor([*found[:length], *filler * (length - len(found))])

    def text(self, words: Int[Tensor, "length"]) -> str:
        """What to type to get these tokens."""
        return str(self.tokenizer.decode(words.tolist())).strip()

    def survives(self, words: Int[Tensor, "length"]) -> bool:
        """Whether the text of these tokens is read as these tokens."""
        back = self.tokenizer(self.text(words), add_special_tokens=False).input_ids
        return bool(back == words.tolist())

    def whole(self, words: Int[Tensor, "n length"]) -> Int[Tensor, "n tokens"]:
        """What the encoder is given: start, words, end and padding."""
        start, end, pad = (
            torch.full((len(words), count), token)
            for token, count in (
                (self.tokenizer.bos_token_id, 1),
                (self.tokenizer.eos_token_id, 1),
                (self.tokenizer.pad_token_id, self.length - words.shape[1] - 2),
            )
        )
        return torch.cat([start, words, end, pad], 1)

    def rows(
        self, words: Int[Tensor, "n length"], *, padding: bool = False
    ) -> Float[Tensor, "n rows width"]:
        """Rows of start, words and end; of the padding behind them too if asked for. Float32."""
        whole = self.whole(words)[:, : None if padding else words.shape[1] + 2]
        whole = whole.to(self.encoder.device)
        with torch.no_grad():
            found = [self.encoder(chunk)[0].float() for chunk in whole.split(CHUNK)]
        return torch.cat(found)

    def spoken(self, found: Sequence[Int[Tensor, "length"]]) -> list[str]:
        """The texts of those that survive, best first, each once."""
        return list(dict.fromkeys(self.text(words) for words in found if self.survives(words)))

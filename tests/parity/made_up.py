"""A made-up autoencoder of CLIP-L's width and the rows of prompts that it reads, from a seed."""

import torch
from torch import Generator, Tensor

WIDTH, FEATURES, TOKENS, PROMPTS = 768, 1024, 20, 4


def made_up() -> dict[str, Tensor]:
    """Weights that float16 holds, and rows whose first, the start token's, has an empty code."""
    rng = Generator().manual_seed(11)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    weights = {
        "W_enc": draw(WIDTH, FEATURES) / WIDTH**0.5,
        "b_enc": -0.2 * draw(FEATURES).abs(),
        "W_dec": draw(FEATURES, WIDTH) / WIDTH**0.5,
        "b_dec": draw(WIDTH),
    }
    weights = {name: weight.half().float() for name, weight in weights.items()}
    rows = draw(PROMPTS, TOKENS, WIDTH)
    rows[:, 0] = weights["b_dec"]
    return {**weights, "rows": rows}

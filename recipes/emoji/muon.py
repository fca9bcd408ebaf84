"""Muon: momentum whose direction is orthogonalised, for the hidden matrices of the denoiser.

Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), Newton-Schulz iteration of
degree five; updates scaled as in Liu et al., arXiv 2502.16982 (section 2.2), so that Adam's learning rates carry
over. On this model it learns faster a sample than AdamW, for a tenth more time a step.
"""

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """Nearly U Vᵀ of a matrix [m, n] with SVD U S Vᵀ; singular values land in about 0.7 to 1.2."""
    a, b, c = COEFFICIENTS
    x = matrix.bfloat16()
    x = x.T if matrix.shape[0] > matrix.shape[1] else x
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if matrix.shape[0] > matrix.shape[1] else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """For parameters of two or more dimensions, the later ones taken together."""

    def __init__(self, params: list[torch.nn.Parameter], lr: float, decay: float) -> None:
        super().__init__(params, {"lr": lr, "decay": decay, "momentum": 0.95})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                ahead = p.grad.lerp(state["momentum"], group["momentum"])
                flat = orthogonal(ahead.flatten(1))
                size = 0.2 * max(flat.shape) ** 0.5
                p.mul_(1 - group["lr"] * group["decay"])
                p.add_(flat.view(ahead.shape), alpha=-group["lr"] * size)

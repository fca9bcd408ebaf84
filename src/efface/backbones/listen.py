"""Hooks on a module: what passes one site is handed to networks, with the prompt's positions.

A `Listener` hangs on a whole text encoder and hears which tokens it is called with; a `Site` hangs
on one module of it, or of a denoiser, which has no listener. Both are deep-copied with the module
they hang on: the copy has its own listener and shares the networks.
"""

import copy
import threading
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from efface.backbones.encoders import Span
from efface.core import EffaceError

Heeder = Callable[[Tensor, Tensor | None], Tensor]
"""What stands at a site: its output and the positions of the prompts, to what takes its place."""


class Listener:
    """Knows, while an encoder runs, which positions hold the prompts."""

    def __init__(self, span: Span) -> None:
        self.span = span
        self._now = threading.local()  # one model may draw in several threads

    def __deepcopy__(self, memo: dict[int, Any]) -> "Listener":
        return memo.setdefault(id(self), Listener(self.span))

    @property
    def holds(self) -> Tensor:
        """The positions of the prompts that the encoder is running on."""
        found: Tensor | None = getattr(self._now, "holds", None)
        if found is None:
            raise EffaceError(
                "a gate needs the prompts' tokens: run the whole text encoder on token ids"
            )
        return found

    def hang(self, encoder: nn.Module) -> tuple[RemovableHandle, RemovableHandle]:
        """Listen to a text encoder's calls."""
        return (
            encoder.register_forward_pre_hook(self.begin, with_kwargs=True),
            encoder.register_forward_hook(self.end, always_call=True),
        )

    def begin(self, encoder: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        """The encoder is called."""
        ids = named.get("input_ids", args[0] if args else None)
        self._now.holds = self.span.holds(ids) if isinstance(ids, Tensor) else None

    def end(self, *_: Any) -> None:
        """It has answered, or failed."""
        self._now.holds = None


class Site:
    """Networks at one module, one after the other."""

    def __init__(self, networks: Sequence[Heeder], listener: Listener | None) -> None:
        self.networks, self.listener = tuple(networks), listener

    def __deepcopy__(self, memo: dict[int, Any]) -> "Site":
        return memo.setdefault(id(self), Site(self.networks, copy.deepcopy(self.listener, memo)))

    def hang(self, module: nn.Module) -> RemovableHandle:
        """Stand at a module, ahead of what records its output for others."""
        return module.register_forward_hook(self, prepend=True)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
        """The module's output, alone or first of a tuple, as the networks pass it."""
        rows = out[0] if isinstance(out, tuple) else out
        holds = self.listener.holds if self.listener is not None else None
        for network in self.networks:
            here = network.to(rows.device) if isinstance(network, nn.Module) else network
            rows = here(rows, holds)
        return (rows, *out[1:]) if isinstance(out, tuple) else rows


def standing(module: nn.Module) -> tuple[int, Site] | None:
    """The site that already hangs on a module, with its key; None where there is none."""
    for key, hook in module._forward_hooks.items():
        if isinstance(hook, Site):
            return key, hook
    return None


def stand(module: nn.Module, networks: Sequence[Heeder], listener: Listener | None) -> None:
    """Put networks behind those that already stand at a module."""
    found = standing(module)
    if found is not None:
        key, before = found
        del module._forward_hooks[key]
        networks, listener = (*before.networks, *networks), before.listener or listener
    Site(networks, listener).hang(module)

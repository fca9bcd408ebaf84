"""A training run that goes on where it stopped: all of it in one file, written whole."""

from pathlib import Path
from typing import Any

import torch


class Resumable:
    """Models, optimisers and schedules by name, with the steps and minutes they have had."""

    def __init__(self, path: Path, **parts: Any) -> None:
        self.path, self.parts = path, parts
        self.step, self.minutes = 0, 0.0
        if path.exists():
            state = torch.load(path, weights_only=True)  # noqa: TID251 (our own file)
            for name, part in parts.items():
                part.load_state_dict(state[name])
            self.step, self.minutes = state["step"], state.get("minutes", 0.0)

    def save(self) -> None:
        """Write the state under a temporary name, then rename."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state = {name: part.state_dict() for name, part in self.parts.items()}
        fresh = self.path.with_suffix(".tmp")
        torch.save({**state, "step": self.step, "minutes": self.minutes}, fresh)
        fresh.replace(self.path)

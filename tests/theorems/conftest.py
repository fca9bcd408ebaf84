"""The random model, from its folder."""

from pathlib import Path

import pytest

from efface.backbones.model import Model, open_folder


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return open_folder(tiny)

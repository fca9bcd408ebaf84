"""Zero-shot classification by any local CLIP (arXiv:2103.00020, section 3.1).

softmax of scale · cos(picture, "a photo of a NAME") over the names that the audit is about: what is
erased, what must stay. So MACE (arXiv:2403.06135) counts objects, with ViT-B/32. A rate depends on
which names compete; rows keep the likest with their probabilities.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor

from efface.backbones.clip import Clip
from efface.core import Detector, EffaceError
from efface.watchers import Ranking

MANNERS = ("style", "background")
"""Groups whose names are told by their last word; all others are things."""


class Named(Ranking):
    """A CLIP and what it says of names."""

    def __init__(
        self, clip: Clip, said: dict[str, dict[str, str]], threshold: float | None
    ) -> None:
        """`said`: group -> name -> the sentence that stands for it."""
        super().__init__(
            {group: [(name,) for name in names] for group, names in said.items()}, threshold, 1
        )
        self.clip = clip
        self._rows = {group: clip.texts(list(names.values())) for group, names in said.items()}

    def scores(self, pictures: Sequence[Image]) -> dict[str, Float[Tensor, "pictures names"]]:
        seen = self.clip.pictures(pictures)
        return {
            group: (self.clip.scale * seen @ rows.T).softmax(1)
            for group, rows in self._rows.items()
        }

    def watch(self, name: str, group: str = "concept") -> Detector:
        if len(self.spellings[group]) < 2:
            raise EffaceError(
                f"clip has nothing to tell {name!r} from: name other classes with "
                "--set clip.others=A,B"
            )
        return super().watch(name, group)


@dataclass(frozen=True)
class ZeroShot:
    """The likest of the words that the audit is about."""

    path: str = ""
    """Folder of a CLIP: config.json, weights, tokenizer and preprocessor_config.json."""
    threshold: float | None = None
    """Probability that is a hit, 0 to 1; none: the likest name of its group."""
    others: str = ""
    """Further names to tell from, comma separated. Raising their number makes a hit harder."""
    thing: str = "a photo of a {}"
    """How a name is put."""
    manner: str = "a picture in {}"
    """How the name of a style or a background is put."""

    def open(self, model: str, words: Sequence[str], device: str) -> Named:
        clip = Clip(self.weights(model)[0], device)
        said: dict[str, dict[str, str]] = {}
        more = [word.strip() for word in self.others.split(",") if word.strip()]
        for word in dict.fromkeys((*words, *more)):
            if "," in word or not word.strip():
                continue  # a manner said of a thing
            last = word.lower().split()[-1]
            group, form = (last, self.manner) if last in MANNERS else ("concept", self.thing)
            said.setdefault(group, {})[word] = form.format(word)
        return Named(clip, said, self.threshold)

    def weights(self, model: str) -> tuple[Path, ...]:
        if not self.path:
            raise EffaceError("clip needs a CLIP: --detector clip:FOLDER")
        return (Path(self.path),)

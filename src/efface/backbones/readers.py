"""Which matrices of a denoiser first consume its text streams."""

from collections.abc import Callable, Collection
from typing import NamedTuple

from efface.backbones.sites import Family, Site, reader_names


class Reader(NamedTuple):
    """A matrix that first consumes a text stream."""

    stream: str
    width: int | None
    """Its leading columns that read the stream; None: all of them."""


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

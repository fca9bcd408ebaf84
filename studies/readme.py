"""Put a generated table between its two markers in the README or another page."""

import re
from pathlib import Path

README = Path("README.md")


def publish(name: str, text: str, page: Path = README) -> None:
    """Replace what stands between `<!-- name -->` and `<!-- /name -->`."""
    before = page.read_text()
    span = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    after, found = span.subn(lambda m: f"{m[1]}\n{text}\n\n{m[2]}", before)
    if found != 1:
        raise ValueError(f"{page} has no place for {name}: restore its two markers")
    page.write_text(after)

"""Puts what was measured between two comments of a page in Markdown; what stands around them is left."""

from pathlib import Path

from repro.errors import UserError


def between_markers(page: Path, text: str, name: str, content: str) -> str:
    """The page's text with `content` between <!-- name --> and <!-- /name -->; UserError unless each is there once."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise UserError(
            f"{page} does not have the lines {begin} and {end}, once each in this order; the table goes between them"
        )
    before, rest = text.split(begin)
    return f"{before}{begin}\n{content.strip()}\n{end}{rest.split(end)[1]}"

"""Whether each link within the site leads somewhere. Links to other sites are not asked."""

from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

EPISODES = "episodes"  # folders of pages whose script reads from the anchor which episode is to be shown


class Page(HTMLParser):
    """The links of a page, and the places that a link may name."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors = {"", "top"}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [link for name in ("href", "src") if (link := given.get(name))]
        self.anchors |= {given.get("id") or "", given.get("name") or ""}


@cache
def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def broken(site: Path) -> list[str]:
    """`page: link` of each link to a file that the site has not, or to a place that its page has not."""
    return [
        f"{page.relative_to(site)}: {link}"
        for page in sorted(site.rglob("*.html"))
        for link in dict.fromkeys(read(page).links)
        if not _leads_somewhere(page, link, site)
    ]


def _leads_somewhere(page: Path, link: str, site: Path) -> bool:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return True
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not target.is_file() or not target.is_relative_to(site):
        return False
    if target.suffix != ".html" or target.parent.name == EPISODES:
        return True
    return unquote(parts.fragment) in read(target).anchors

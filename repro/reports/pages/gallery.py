"""The gallery: pages as a repository keeps them, with what they share once in a folder beside them.

A page of `reports/build` has its style sheets, scripts and figures in it, so that it can be sent to somebody or shown by
MLflow, and each figure lies beside it again, as PNG, SVG and CSV. A page of the gallery links to all these in `assets/`.
The name of a file there ends with the beginning of its digest: nothing is there twice, and a page that is built again
changes nothing that another one shows. PNGs are left out, the files of single panels, which are views of the whole figure's
there, and the episodes of all seeds but the first. Above each page is the way to the index and to the atlas.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from urllib.parse import quote, unquote

from repro.reports.figures import vector
from repro.reports.pages import entries
from repro.reports.pages.index import ATLAS, BUILT, EPISODES, STUDY
from repro.reports.pages.markup import day

ASSETS, INDEX = "assets", "index.html"
RECORDS = (STUDY, ATLAS)  # by which pages are found; no page links to them
DIGITS = 8  # of a digest, in a file's name
LEAST = 400  # bytes of a style sheet or script that is worth a file
DRAWING = "data:image/svg+xml,"
STYLE = re.compile(r"<style>(.*?)</style>\n?", re.DOTALL)
SCRIPT = re.compile(r"<script>(.*?)</script>\n?", re.DOTALL)  # one with a type is data, and the page's own
PANEL = re.compile(r'src="data:image/svg\+xml,[^"]*" style="[^"]*" data-whole="(\S+) (\S+) (\S+)"')
FILES = re.compile(r'<p class="files">.*?</p>', re.DOTALL)  # of one panel
FIGURE = re.compile(r"<figure[ >].*?</figure>", re.DOTALL)
IMAGE = re.compile(r'src="(data:image/svg\+xml,[^"]*)"')
DRAWN = re.compile(r'<a href="figures/([^"/]+)\.svg">')
BITMAP = re.compile(r'<a href="figures/[^"]+\.png">PNG</a>,\s*')
FILE = re.compile(r'href="(figures/[^"]+)"')
LINK = re.compile(r'(\s·\s)?<a href="([^"#]+)(?:#[^"]*)?">(.*?)</a>', re.DOTALL)
TARGET = re.compile(r"""(?:href|src)=["']([^"'#]+)""")
OUTSIDE = re.compile(r"[a-z]+:")  # how an address begins that is not of a file
TOLD = "This copy has the episodes of {} and no PNGs; <code>make report</code> builds them all."
NOTE = f'<p class="meta">{TOLD}</p>\n'
REPRODUCE = re.compile(r'<section id="reproduce">.*?<div class="body">\n', re.DOTALL)  # where it belongs
WAY = re.compile(r'<main>\n(?:<p class="kicker way">.*</p>\n)?')


def trim(gallery: Path, seeds: int) -> tuple[int, int]:
    """Makes a folder of built pages, `index.html` and a folder for each study, a gallery; its files and bytes.

    Of a study the episodes of the first `seeds` seeds are kept. Pages that were trimmed before stay as they are.
    """
    for folder in sorted(page.parent for page in gallery.glob(f"*/{INDEX}")):
        _trim_folder(folder, seeds)
    index = gallery / INDEX
    index.write_text(_shared(index.read_text(encoding="utf-8"), index, gallery / ASSETS), encoding="utf-8")
    reached = reachable(gallery)
    files = [path for path in gallery.rglob("*") if path.is_file()]
    kept = [file for file in files if file in reached or file.name in RECORDS]
    for file in set(files) - set(kept):
        file.unlink()
    return len(kept), sum(file.stat().st_size for file in kept)


def lead(gallery: Path, left: Collection[str]) -> None:
    """Puts above every page the way to the index and to each atlas, and of when it is if it is of the folders `left`."""
    scales = {file.parent / INDEX: entries.read(file).get("scale", "not known") for file in gallery.glob(f"*/{ATLAS}")}
    atlases = sorted((file, f"Atlas, scale {scale}") for file, scale in scales.items())
    for page in sorted(gallery.glob("*/**/*.html")):
        folder = gallery / page.relative_to(gallery).parts[0]
        ways = [(gallery / INDEX, "All studies"), *atlases]
        parts = [f'<a href="{_address(file, page)}">{words}</a>' for file, words in ways if file != page]
        newest = entries.read(folder / STUDY).get("index", {}).get("newest", 0) if folder.name in left else 0
        parts += [BUILT.format(day(newest))] if newest else []
        head, _, rest = WAY.sub("<main>\n", page.read_text(encoding="utf-8"), count=1).partition("<main>\n")
        page.write_text(f'{head}<main>\n<p class="kicker way">{" · ".join(parts)}</p>\n{rest}', encoding="utf-8")


def reachable(gallery: Path) -> set[Path]:
    """The index and all files that it leads to, through whichever pages."""
    found: set[Path] = set()
    waiting = [gallery / INDEX]
    while waiting:
        file = waiting.pop()
        if file not in found and file.is_file():
            found.add(file)
            waiting += targets(file) if file.suffix == ".html" else []
    return found


def targets(page: Path) -> list[Path]:
    """The files that a page links to or shows, whether or not they are there."""
    addresses = dict.fromkeys(TARGET.findall(page.read_text(encoding="utf-8")))
    return [Path(os.path.normpath(page.parent / unquote(each))) for each in addresses if not OUTSIDE.match(each)]


def _trim_folder(folder: Path, seeds: int) -> None:
    """The pages of one folder; what they do not show is removed from it once all of them are read."""
    episodes = sorted(folder.glob(f"{EPISODES}/*.html"), key=lambda page: (len(page.name), page.name))
    left_out = {page.relative_to(folder).as_posix() for page in episodes[seeds:]}
    pages = [*folder.glob("*.html"), *episodes[:seeds]]
    texts = {page: _trimmed(page, folder, left_out) for page in pages}
    if left_out:
        note = NOTE.format("the first seed" if seeds == 1 else f"the first {seeds} seeds")
        texts[folder / INDEX] = REPRODUCE.sub(lambda found: found[0] + note, texts[folder / INDEX], count=1)
    shutil.rmtree(folder / "figures", ignore_errors=True)
    for page in episodes[seeds:]:
        page.unlink()
    for page, text in texts.items():
        page.write_text(text, encoding="utf-8")


# One page


def _trimmed(page: Path, folder: Path, left_out: set[str]) -> str:
    """The text of a page of the gallery's `folder`; what it shares is written to the assets."""
    assets, text = folder.parent / ASSETS, page.read_text(encoding="utf-8")
    text = FIGURE.sub(lambda each: _figure(each[0], page, assets), text)
    text = FILE.sub(lambda each: f'href="{_copied(page.parent / unquote(each[1]), page, assets)}"', text)
    text = LINK.sub(lambda each: _unlinked(each) if each[2] in left_out else each[0], text)
    return _shared(text, page, assets)


def _figure(text: str, page: Path, assets: Path) -> str:
    """A figure whose drawing is a file of the assets, without the PNG; its panels are views of that file."""
    text = FILES.sub("", text)
    name = DRAWN.search(text)
    if not name:
        return text
    svg = vector.compact(_drawing(text, page, name[1]))
    place = _address(_kept(svg.encode(), name[1], ".svg", assets), page)
    view = f'src="{place}" style="--across: \\1; --from: \\2; --top: \\3"'
    text = IMAGE.sub(lambda each: f'src="{place}"', PANEL.sub(view, text))
    return BITMAP.sub("", text.replace(name[0], f'<a href="{place}">'))


def _drawing(text: str, page: Path, name: str) -> str:
    """The SVG of a figure: the one in the page, or where that shows panels the file of the whole."""
    file = page.parent / "figures" / f"{name}.svg"
    if PANEL.search(text) and file.is_file():
        return file.read_text(encoding="utf-8").strip()
    shown = IMAGE.search(text)
    return unquote(shown[1].removeprefix(DRAWING)) if shown else ""


def _shared(text: str, page: Path, assets: Path) -> str:
    """A page's text with its style sheets and scripts as files of the assets."""

    def moved(stem: str, suffix: str, element: str) -> Callable[[re.Match], str]:
        def move(each: re.Match) -> str:
            content = each[1].strip() + "\n"
            if len(content) < LEAST:
                return each[0]
            return element.format(_address(_kept(content.encode(), stem, suffix, assets), page)) + "\n"

        return move

    text = STYLE.sub(moved("style", ".css", '<link rel="stylesheet" href="{}">'), text)
    return SCRIPT.sub(moved("script", ".js", '<script src="{}"></script>'), text)


def _copied(file: Path, page: Path, assets: Path) -> str:
    """The address, as seen from the page, of a file's copy among the assets."""
    stem, dot, suffix = file.name.partition(".")
    return _address(_kept(file.read_bytes(), stem, dot + suffix, assets), page)


def _kept(content: bytes, stem: str, suffix: str, assets: Path) -> Path:
    """The asset that holds this content, written where there is none yet; its name may be another figure's."""
    assets.mkdir(exist_ok=True)
    end = f"-{hashlib.sha256(content).hexdigest()[:DIGITS]}{suffix}"
    file = next(iter(sorted(assets.glob(f"*{end}"))), assets / f"{stem}{end}")
    if not file.is_file():
        file.write_bytes(content)
    return file


def _address(file: Path, page: Path) -> str:
    return quote(Path(os.path.relpath(file, page.parent)).as_posix())


def _unlinked(link: re.Match) -> str:
    """What stands in the place of a link to a page that is left out; nothing where it was an aside after a dot."""
    return "" if link[1] else f'<span class="soft">{link[3]} (not in this copy)</span>'

"""What the site has beside its pages: the gallery as it is, and a page for each file of the repository that is linked."""

import inspect
import re
import shutil
import sys
from collections.abc import Iterator
from os.path import normpath, relpath
from pathlib import Path, PurePosixPath

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound

from repro.cli.docs import prose, table
from repro.study.metrics import METRICS

ROOT = Path(__file__).parents[2]
GALLERY = "reports/gallery"
API = PurePosixPath("docs/api")
LINK = re.compile(r"(?<=\]\()(?!\w+:)([^()#\s]+)(#\w+)?(?=\))")
LINE = re.compile(r"#L(\d+)$")
TOCTREE = """

```{toctree}
:hidden:
:caption: Start

docs/first-study
docs/commands
docs/python
docs/your-own-data
docs/paper-scale
```

```{toctree}
:hidden:
:caption: What is known

docs/results
docs/claims
docs/gallery
docs/details
docs/embedded
docs/over-optimisation
```

```{toctree}
:hidden:
:caption: How it is known

docs/statistics
docs/calibration
docs/performance
```

```{toctree}
:hidden:
:caption: The code

docs/architecture
docs/api/index
CONTRIBUTING
CHANGELOG
```
"""
shown: set[str] = set()  # files of the repository that a page links


def link(docname: str, target: str, anchor: str) -> str:
    """A relative link of a page, as it is on the site: to a page as it stands, to the gallery, or to a file's own page.

    A folder of the code has the page of its first file, which says what is in it.
    """
    folder = PurePosixPath(docname).parent
    path = normpath(folder / target)
    if (ROOT / path / "__init__.py").is_file():
        path = f"{path}/__init__.py"
    if not (ROOT / path).is_file() or path.endswith((".md", ".ipynb", ".png", ".svg")):
        return f"{target}{anchor}"
    if path.startswith(GALLERY):
        return f"repo:{target}{anchor}"
    return "repo:" + _page_of(path, folder) + LINE.sub(r"#L-\1", anchor)


def linkcode(domain: str, info: dict[str, str]) -> str | None:
    """Where the source of a name in the API's pages is."""
    found = sys.modules[info["module"]]
    try:
        for name in info["fullname"].split("."):
            found = getattr(found, name)
        found = inspect.unwrap(getattr(found, "fget", None) or getattr(found, "func", found))  # a property's function
        path = Path(inspect.getsourcefile(found)).relative_to(ROOT).as_posix()
        return f"{_page_of(path, API)}#L-{inspect.getsourcelines(found)[1]}"
    except (AttributeError, TypeError, OSError, ValueError):
        return None


def _page_of(path: str, folder: PurePosixPath) -> str:
    shown.add(path)
    return relpath(f"source/{path}.html", folder)


def _on_site(app, docname: str, source: list[str]) -> None:
    source[0] = LINK.sub(lambda found: link(docname, found[1], found[2] or ""), source[0])
    if docname == app.config.root_doc:
        source[0] += TOCTREE
    if docname == "docs/api/metrics":
        rows = [(f"`{name}`", prose(meaning)) for name, meaning in METRICS.items()]
        source[0] += f"\n{table(('metric', 'what it is'), rows)}"


def _source_pages(app) -> Iterator[tuple[str, dict[str, str], str]]:
    formatter = HtmlFormatter(linenos="inline", lineanchors="L", anchorlinenos=True)
    for path in sorted(shown):
        try:
            lexer = get_lexer_for_filename(path)
        except ClassNotFound:
            lexer = TextLexer()
        body = highlight((ROOT / path).read_text(encoding="utf-8"), lexer, formatter)
        yield f"source/{path}", {"title": path, "body": f"<h1>{path}</h1>\n{body}"}, "page.html"


def _finish(app, exception: Exception | None) -> None:
    if exception is None:
        out = Path(app.outdir)
        shutil.copytree(ROOT / GALLERY, out / GALLERY, dirs_exist_ok=True)
        shutil.copy(out / f"{app.config.root_doc}.html", out / "index.html")


def setup(app) -> None:
    app.connect("source-read", _on_site)
    app.connect("html-collect-pages", _source_pages)
    app.connect("build-finished", _finish)

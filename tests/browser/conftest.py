"""A real study with every page that is built of it, and a headless Chromium that watches them."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from filelock import FileLock

from tests.browser import place as places
from tests.browser.watch import FLAGS, Watch, installed


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    """A folder that all processes of a test run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def place(shared) -> places.Place:
    """A real study and all its pages; made once, by whichever process comes first."""
    with FileLock(shared / "study.lock"):
        if not (shared / "study").exists():
            places.make(shared / "study")
            (shared / "study.made").touch()
    assert (shared / "study.made").exists(), "another process of this test run could not make the study"
    return places.read(shared / "study")


@pytest.fixture(scope="session")
def shots(shared) -> Path:
    """The folder of screenshots, for a person to look at."""
    (shared / "shots").mkdir(exist_ok=True)
    return shared / "shots"


# A module's and not the session's: while it is open, other tests of its process could run no event loop of their own.
@pytest.fixture(scope="module")
def chromium() -> Iterator:
    """A headless Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="no playwright; make browser installs it")
    with api.sync_playwright() as playwright:
        path = installed() or playwright.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("no Chromium; make browser installs one")
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def watch() -> Watch:
    """What the pages of a test complain of and ask for."""
    return Watch()


@pytest.fixture
def visit(chromium, watch) -> Iterator[Callable]:
    """`visit(address, width=1280, scheme="light")` opens a page; in the end nothing may have gone wrong on any."""
    with ExitStack() as contexts:

        def visit(address: Path | str, width: int = 1280, scheme: str = "light"):
            phone = width < 600
            size = {"width": width, "height": 844 if phone else 900}
            context = chromium.new_context(viewport=size, color_scheme=scheme, has_touch=phone)
            contexts.callback(context.close)
            watch.on(context)
            page = context.new_page()
            page.goto(address.as_uri() if isinstance(address, Path) else address)
            return page

        yield visit
    assert (watch.troubles, watch.left) == ([], [])

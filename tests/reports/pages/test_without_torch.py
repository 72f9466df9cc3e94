"""The pages of a whole store need neither torch nor a stage: one process that can import neither builds them all.

A study's own page is in test_page.py, which compares its bytes with those of a process that can.
"""

import json
from pathlib import Path

import pytest

from tests import blank
from tests.reports.made_up import without_torch
from tests.reports.pages.test_atlas import ALPHA, REFERENCE, put

BUILDS = {
    "atlas": "from repro.reports.pages import atlas\nbuilt = atlas.build('toy', (), uri, folder / 'atlas')",
    "index": "from repro.reports.pages import entries, index\nbuilt = index.build(folder / 'new', uri, ())",
    "paper": "from repro.reports.pages import paper\nbuilt = paper.build(uri, folder / 'paper')",
}
# Prints page -> where it is, or why there is none.
BUILD = """
import json, traceback
from pathlib import Path
told = {}
for page, program in builds.items():
    names = {"uri": uri, "folder": Path(folder)}
    try:
        exec(program, names)
        told[page] = str(names["built"])
    except Exception:
        told[page] = traceback.format_exc()
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def built(store, tmp_path_factory) -> tuple[dict[str, str], Path]:
    """Page -> what the process says of it, and the folder that they are in."""
    put(store, "alpha", {"ref": REFERENCE} | ALPHA)
    folder = tmp_path_factory.mktemp("pages")
    done = without_torch(f"{blank.BEGINNING}builds, uri, folder = {BUILDS!r}, {store!r}, {str(folder)!r}\n{BUILD}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), folder


@pytest.mark.parametrize(
    ("page", "place"), [("atlas", "atlas/index.html"), ("index", "new/index.html"), ("paper", "paper/index.html")]
)
def test_a_page_of_the_whole_store_needs_no_torch_and_no_stage(page, place, built):
    told, folder = built
    assert told[page] == str(folder / place) and (folder / place).is_file(), told[page]

"""The gallery: what a built folder becomes, what the verb makes of a store, and what the repository's own is held to."""

import hashlib
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import pytest

from repro.__main__ import main
from repro.reports.figures import vector
from repro.reports.pages import gallery, index, inspect, markup, page
from tests import blank
from tests.paths import ROOT

OWN = ROOT / "reports" / "gallery"
MOST_BYTES, MOST_FILES = 7_000_000, 150  # of the repository's own
SEEDS = (1, 2, 3)
STYLE = f"<style>\np {{ color: red; }} /* {'of all episodes ' * gallery.LEAST} */\n</style>\n"
DAY = "1970-01-01"  # of the newest made-up run
EPISODES = STYLE + '<main>\n<p>{seed}</p><a href="../index.html">back</a>\n<script>\nsmall();\n</script>\n'


def episodes(study, out: Path) -> dict[tuple[str, int], str]:
    """In the place of `inspect.build_all`: a page for each seed, and a link to it for every arm."""
    (out / "episodes").mkdir()
    for seed in SEEDS:
        (out / "episodes" / f"seed{seed}.html").write_text(EPISODES.replace("{seed}", str(seed)))
    return {(arm, seed): f"episodes/seed{seed}.html#{arm}-0" for arm in study.arms for seed in SEEDS}


def recolour(folder: Path, old: str, new: str) -> None:
    """Draws a built page's figures in another colour, in the page and in their files."""
    for file in (folder / "index.html", *(folder / "figures").glob("*.svg")):
        file.write_text(file.read_text().replace(f"%23{old}", f"%23{new}").replace(f"#{old}", f"#{new}"))


@pytest.fixture(scope="module")
def built(study, tmp_path_factory) -> Path:
    """A folder as `make figures` leaves it: two studies, whose figures are all but the same, and an index."""
    root = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "build_all", episodes)
        patch.setattr(page, "CHARTS", [chart for chart in page.CHARTS if chart.name in ("learning_curves", "training")])
        page.build(study, root / "one")
    shutil.copytree(root / "one", root / "two")
    recolour(root / "two", "0072b2", "0072b3")
    links = "".join(f'<a href="{name}/index.html">{name}</a>' for name in ("one", "two"))
    (root / "index.html").write_text(STYLE + links)
    return root


@pytest.fixture
def trimmed(built, tmp_path) -> Path:
    root = Path(shutil.copytree(built, tmp_path / "gallery"))
    files, size = gallery.trim(root, seeds=1)
    assert (files, size) == (len(contents(root)), sum(map(len, contents(root).values())))
    return root


def contents(root: Path) -> dict[str, bytes]:
    """Every file of a folder, by its name from there."""
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def digests(text: str, folder: Path) -> str:
    """A page with the digest of a figure's file in the place of its address."""

    def told(found: re.Match) -> str:
        return f'href="{hashlib.sha256((folder / unquote(found[1])).read_bytes()).hexdigest()}"'

    return re.sub(r'href="((?:figures|\.\./assets)/[^"]+\.(?:svg|csv|gz))"', told, text)


def viewed(text: str, folder: Path) -> str:
    """A built page with views of the whole figure in the place of its panels, and without the panels' files."""

    def figure(found: re.Match) -> str:
        name = re.search(r'href="figures/([^"/]+)\.svg">SVG</a>, <a href="[^"]+">data</a>\.</figcaption>', found[0])[1]
        whole = markup.data_address((folder / "figures" / f"{name}.svg").read_text().strip())
        place = re.compile(r'src="data:[^"]*" style="--top: [^"]*" data-whole="(\S+) (\S+) (\S+)"')
        told = place.sub(
            lambda each: f'src="{whole}" style="--across: {each[1]}; --from: {each[2]}; --top: {each[3]}"', found[0]
        )
        return re.sub(r'<p class="files">.*?</p>', "", told, flags=re.DOTALL)

    return re.sub(r"<figure [^>]*>.*?</figure>", figure, text, flags=re.DOTALL)


def packed(file: Path) -> str:
    """A page of a gallery with all that it shares put into it again."""

    def read(found: re.Match) -> str:
        return (file.parent / unquote(found[1])).read_text()

    text = digests(file.read_text(), file.parent)
    text = re.sub(r'src="([^"]+\.svg)"', lambda each: f'src="{markup.data_address(read(each).strip())}"', text)
    text = re.sub(r'<link rel="stylesheet" href="([^"]+)">', lambda each: f"<style>\n{read(each)}</style>", text)
    return re.sub(r'<script src="([^"]+)"></script>', lambda each: f"<script>\n{read(each)}</script>", text)


# ------------------------------------------------------------------------------------------------ what is kept


def test_a_page_is_what_it_was_but_for_the_pngs(built, tmp_path):
    root = Path(shutil.copytree(built, tmp_path / "gallery"))
    gallery.trim(root, seeds=len(SEEDS))
    before, after = ((folder / "one" / "index.html").read_text() for folder in (built, root))
    assert '<link rel="stylesheet" href="../assets/style-' in after and 'src="../assets/learning_curves-' in after
    assert len(after) < 0.8 * len(before)
    expected = re.sub(r"<a [^>]*>PNG</a>,\s*", "", viewed(before, built / "one"))
    assert packed(root / "one" / "index.html") == digests(expected, built / "one")


def test_panels_are_views_of_one_file_that_do_not_meet(trimmed):
    text = (trimmed / "one" / "index.html").read_text()
    found = re.findall(r'src="([^"]+)" style="--across: (\S+); --from: (\S+); --top: (\S+)"', text)
    curves = [each for each in found if "/learning_curves-" in each[0]]
    assert len(curves) == len({each[2:] for each in curves}) == 9
    assert len({file for file, *_ in curves}) == 1 and {across for _, across, *_ in curves} == {"2"}
    assert "data-whole" not in text and not re.search(r'class="files"', text)


def test_what_pages_share_is_there_once_and_what_differs_is_there_twice(trimmed):
    found = contents(trimmed)
    assets = {name: content for name, content in found.items() if name.startswith(f"{gallery.ASSETS}/")}
    assert len(set(assets.values())) == len(assets)
    stems = Counter(re.sub("-[0-9a-f]+", "", Path(name).name) for name in assets)
    assert stems["learning_curves.svg"] == 2 and stems["learning_curves.csv"] == 1
    assert not [name for name in found if name.endswith(".png") or "figures/" in name]
    assert {"one/verdict.json", "two/verdict.json"} < found.keys()


def test_every_link_leads_to_a_file_and_every_file_is_linked(trimmed):
    pages = [file for file in trimmed.rglob("*.html")]
    assert len(pages) == 1 + 2 * 2  # the index; of each study the page and the episodes of a seed
    assert [target for file in pages for target in gallery.targets(file) if not target.is_file()] == []
    linked = gallery.reachable(trimmed)
    assert {file.name for file in trimmed.rglob("*") if file.is_file() and file not in linked} == {"verdict.json"}


def test_episodes_of_the_first_seeds_are_kept_and_the_page_says_so(trimmed, built, study):
    text = (trimmed / "one" / "index.html").read_text()
    assert sorted(file.name for file in (trimmed / "one" / "episodes").iterdir()) == ["seed1.html"]
    assert "episodes/seed2" not in text and "episodes/seed1.html#" in text
    assert text.count("page (not in this copy)") == len(study.arms) * 2
    posts = (built / "one" / "index.html").read_text().count("training episodes, token by token")
    assert text.count("training episodes, token by token") == posts / len(SEEDS) > 0
    assert text.count("This copy has the episodes of the first seed and no PNGs") == 1
    assert text.index('<section id="reproduce">') < text.index("This copy has") < text.index('<section id="rules">')


def test_a_script_or_style_too_small_for_a_file_stays_and_the_link_back_does(trimmed):
    text = (trimmed / "one" / "episodes" / "seed1.html").read_text()
    assert "<script>\nsmall();\n</script>" in text and "<style>" not in text and 'href="../index.html"' in text


def test_every_page_leads_to_the_index_and_to_the_atlas_and_says_of_when_it_is_where_it_was_left(trimmed):
    shutil.copytree(trimmed / "two", trimmed / "atlas", ignore=shutil.ignore_patterns(index.STUDY, "episodes"))
    (trimmed / "atlas" / index.ATLAS).write_text('{"scale": "mini"}')
    for _ in range(2):  # the second time changes nothing
        gallery.lead(trimmed, left={"two"})
        for file in trimmed.glob("*/**/*.html"):
            way = re.findall(r'<p class="kicker way">(.*)</p>', file.read_text())
            up = "../" * (len(file.relative_to(trimmed).parts) - 1)
            told = [f'<a href="{up}index.html">All studies</a>']
            if file.parent.name != "atlas":
                told.append(f'<a href="{up}atlas/index.html">Atlas, scale mini</a>')
            if "two" in file.parts:
                told.append(f"page of {DAY}, as it was built then")
            assert way == [" · ".join(told)], file


def test_once_more_changes_nothing(trimmed):
    before = contents(trimmed)
    gallery.trim(trimmed, seeds=1)
    assert contents(trimmed) == before


def test_a_page_that_is_built_again_changes_no_other_and_what_it_showed_goes(trimmed, built):
    other, shown = (trimmed / "one" / "index.html").read_bytes(), set((trimmed / "assets").iterdir())
    shutil.rmtree(trimmed / "two")
    shutil.copytree(built / "two", trimmed / "two")
    recolour(trimmed / "two", "0072b3", "0072b4")
    gallery.trim(trimmed, seeds=1)
    assert (trimmed / "one" / "index.html").read_bytes() == other
    gone, new = shown - set((trimmed / "assets").iterdir()), set((trimmed / "assets").iterdir()) - shown
    names = [sorted(file.name.partition("-")[0] for file in some) for some in (gone, new)]
    assert names[0] == names[1] and "learning_curves" in names[0]


# ------------------------------------------------------------------------------------------------ the verb


@pytest.fixture
def place(store, tmp_path, monkeypatch, undrawn):
    """A working directory with the made-up store in use, and figures that take no time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    blank.instead(monkeypatch.setattr)
    return tmp_path / "reports" / "gallery"


def test_the_verb_builds_what_is_named_and_then_what_is_there(place, capsys):
    assert main(["gallery", "whiten_adv"]) == 0
    told = capsys.readouterr()
    assert re.search(r"gallery: \d+ files, \d\.\d MB\n$", told.out) and "left as they were" not in told.err
    first = contents(place)
    assert {"index.html", "whiten_adv/index.html", "whiten_adv/verdict.json", "paper/index.html"} < first.keys()
    assert 'href="whiten_adv/index.html"' in (place / "index.html").read_text()
    shutil.copytree(place / "whiten_adv", place / "elsewhere")
    record = place / "elsewhere" / "verdict.json"
    record.write_text(record.read_text().replace('"detail": "whiten_adv"', '"detail": "elsewhere"'))
    assert main(["gallery"]) == 0
    assert capsys.readouterr().err == "left as they were: elsewhere\n"
    again = contents(place)
    assert {name: again[name] for name in first if name != "index.html"} == {
        name: content for name, content in first.items() if name != "index.html"
    }
    assert b'href="elsewhere/index.html"' in again["index.html"]


@pytest.fixture(scope="module")
def first(store, tmp_path_factory) -> Path:
    """The gallery that the verb builds of one study."""
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", store)
        blank.instead(patch.setattr)
        blank.without_charts(patch.setattr)
        assert main(["gallery", "whiten_adv"]) == 0
    return folder / "reports" / "gallery"


@pytest.fixture
def begun(place, first) -> Path:
    """The same in a working directory of one's own."""
    return Path(shutil.copytree(first, place))


def test_without_its_store_the_gallery_keeps_its_studies_and_their_entries(begun, capsys, monkeypatch, tmp_path):
    before, entry = contents(begun), re.compile(r"<article.*?</article>", re.DOTALL)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'gone.db'}")
    assert main(["gallery"]) == 0
    assert capsys.readouterr().err == "left as they were: whiten_adv\n" and not (tmp_path / "gone.db").exists()
    after = contents(begun)
    assert {name.rpartition("/")[2] for name in before if before[name] != after[name]} == {"index.html"}
    shown = [entry.findall(each["index.html"].decode())[0] for each in (before, after)]
    (told,) = re.findall(r" · (page of \d{4}-\d\d-\d\d, as it was built then)", shown[1])
    assert shown[1].replace(f" · {told}", "") == shown[0]
    own = after["whiten_adv/index.html"].decode()
    assert own.replace(f" · {told}</p>", "</p>", 1).encode() == before["whiten_adv/index.html"]
    assert main(["gallery"]) == 0 and contents(begun) == after
    assert main(["gallery", "whiten_adv"]) == 2  # what is named must be in the store


def test_an_atlas_keeps_its_rows_of_studies_that_the_store_has_not(begun):
    kept = shutil.copytree(OWN / "atlas", begun / "atlas", dirs_exist_ok=True) / index.ATLAS
    before = json.loads(kept.read_text())
    assert main(["gallery", "whiten_adv"]) == 0
    after = json.loads(kept.read_text())
    assert after["studied"] == before["studied"] and after["studies"]["eos"] == before["studies"]["eos"]
    rows, former = (
        {(e["detail"], e["variant"]): e["mean_difference"] for e in each["effects"]} for each in (after, before)
    )
    assert {key for key in rows.keys() | former.keys() if rows.get(key) != former.get(key)} == {
        key for key in rows.keys() | former.keys() if key[0] == "whiten_adv"
    }
    assert {detail for store in after["earlier"] for detail in store["studies"]} == set(before["studied"]) - {
        "whiten_adv"
    }


def test_its_index_has_every_study_of_its_atlas_and_of_its_folders(own):
    html = own["index.html"].decode()
    shown = set(re.findall(r'<article [^>]*data-study="([^"]+)"', html))
    records = [json.loads(content) for name, content in own.items() if name.endswith(index.STUDY)]
    assert {f"{each['detail']}-{each['scale']}" for each in records} < shown
    atlas = json.loads(own[f"atlas/{index.ATLAS}"])
    assert {f"{detail}-mini" for detail in atlas["studied"]} < shown
    assert "kl_coef-local-model=SmolLM2-135M-Instruct.Q4_1.g-97819e5a9749" in shown


def test_its_index_and_its_atlas_count_the_same_words(own):
    families = json.loads(own[f"atlas/{index.ATLAS}"])["families"]  # by metric
    html, variants = own["index.html"].decode(), sum(family["variants"] for family in families)
    line = re.search(rf'<p class="counts">{variants} variants at scale <b>mini</b>:(.*?)</p>', html, re.DOTALL)[1]
    told = [re.findall(r'<span class="badge [^>]*>(\d+) ([a-z ]+)<', part) for part in line.split("After Holm")]
    for kind, found in zip(("verdicts", "corrected"), told, strict=True):
        counted = sum((Counter(family[kind]) for family in families), Counter())
        assert {word: int(n) for n, word in found} == {word: n for word, n in counted.items() if n}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["gone"], "holds no study gone; known: "),
        ([], "name a study; the MLflow store"),
        (["--episodes", "0"], "not a whole"),
    ],
)
def test_the_verb_refuses_what_is_not_there(words, told, place, capsys):
    assert main(["gallery", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and told in error and error.count("\n") == 1
    assert not place.exists() or not contents(place)


# ------------------------------------------------------------------------------------------------ the repository's own


@pytest.fixture(scope="module")
def own() -> dict[str, bytes]:
    return contents(OWN)


def test_it_is_no_larger_than_a_reader_has_patience_for(own):
    assert sum(map(len, own.values())) <= MOST_BYTES and len(own) <= MOST_FILES


def test_it_is_as_the_verb_leaves_it(own, tmp_path):
    copy = Path(shutil.copytree(OWN, tmp_path / "gallery"))
    gallery.trim(copy, seeds=1)
    assert contents(copy) == own, "run `make gallery`"


def test_every_link_of_it_leads_to_a_file():
    pages = list(OWN.rglob("*.html"))
    assert len(pages) > 5
    assert [(file, target) for file in pages for target in gallery.targets(file) if not target.is_file()] == []


def test_all_of_it_can_be_reached_from_its_index(own):
    linked = {file.relative_to(OWN).as_posix() for file in gallery.reachable(OWN)}
    assert {Path(name).name for name in own.keys() - linked} == {index.STUDY, index.ATLAS}


def test_nothing_of_it_is_there_twice_or_a_bitmap(own):
    twice = Counter(hashlib.sha256(content).hexdigest() for name, content in own.items()).most_common(1)
    assert twice[0][1] == 1
    assert not [name for name in own if name.endswith(".png")]


def test_its_assets_are_named_by_what_they_hold_and_its_drawings_compact(own):
    for name, content in own.items():
        if name.startswith(f"{gallery.ASSETS}/"):
            assert hashlib.sha256(content).hexdigest()[: gallery.DIGITS] in name
        if name.endswith(".svg"):
            assert vector.compact(content.decode()) == content.decode(), name


def test_no_page_of_it_needs_the_network_or_holds_a_figure(own):
    for name, content in own.items():
        if name.endswith(".html"):
            assert not re.search(rb"""(?:src|href)=["'](?:https?:|//|data:)|@import|fetch\(""", content), name

"""Compact drawings: what is drawn is what matplotlib wrote, shape by shape, in far fewer bytes."""

import io
import re
from collections.abc import Iterator
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
import pytest
from matplotlib.figure import Figure

from repro.reports.figures import chart, style, vector

SVG, HREF = vector.SVG, vector.HREF
POINT = 0.02  # how far a point of a shape may move [points]; a hundredth each for where it stands and for itself
TAKES = {"m": 2, "l": 2, "h": 1, "v": 1, "q": 4, "c": 6, "z": 0}


@pytest.fixture(scope="module")
def raw() -> str:
    """What matplotlib writes of a figure that has all that figures here have, and a pattern, which none has yet."""
    rng, text = np.random.default_rng(0), io.StringIO()
    with style.context():
        figure = Figure(figsize=(6, 4))
        left, right = figure.subplots(1, 2)
        x = np.arange(30)
        left.plot(x, rng.normal(size=30).cumsum(), marker="s", dashes=(5, 2), label="an arm_(quoted '\"<&)")
        left.fill_between(x, rng.normal(size=30), 3 + rng.normal(size=30), alpha=0.13)
        left.set(ylabel="turned", title="fi −1.5 é")
        left.legend()
        left.set_ylim(-1, 1)  # so that something is cut off
        right.scatter(rng.random(20), 1e-6 + rng.random(20), c=rng.random(20), s=40 * rng.random(20))
        right.bar([0.2, 0.6], [0.5, 0.9], width=0.1, hatch="//", fill=False)
        right.hlines([0.001, 0.1], 0, 1, color="#aabbcc", linewidth=0.123456)
        right.set_yscale("log")
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def points(d: str) -> tuple[str, np.ndarray]:
    """The commands of a path, lines along an axis as lines, and its points, [points, 2], from the origin."""
    at, start, told, commands = np.zeros(2), np.zeros(2), [], ""
    for command, numbers in re.findall(r"([a-zA-Z])([^a-zA-Z]*)", d):
        name, takes = command.lower(), TAKES[command.lower()]
        words = [float(word) for word in re.findall(r"-?(?:\d+\.?\d*|\.\d+)", numbers)]
        assert len(words) % takes == 0 if takes else not words
        for place in range(0, len(words), takes or 1):
            some = words[place : place + takes]
            some = {"h": [some[0], 0.0], "v": [0.0, some[0]]}.get(name, some)
            pairs = np.reshape(some, (-1, 2)) + (at if command.islower() else 0)
            at, told = pairs[-1], [*told, *pairs]
            start = at if name == "m" else start
            commands += {"h": "l", "v": "l"}.get(name, name)
        if name == "z":
            at, commands = start, commands + "z"
    return commands, np.array(told).reshape(-1, 2)


def matrix(transform: str) -> np.ndarray:
    """A transform as a 3 x 3 matrix."""
    whole = np.eye(3)
    for name, words in re.findall(r"(\w+)\(([^)]*)\)", transform):
        a = [float(word) for word in words.replace(",", " ").split()]
        each = np.eye(3)
        if name == "translate":
            each[:2, 2] = a
        elif name == "scale":
            each[0, 0], each[1, 1] = a[0], a[-1]
        else:
            assert name == "rotate"
            turn = np.deg2rad(a[0])
            each[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
        whole = whole @ each
    return whole


def shapes(svg: str) -> Iterator[tuple[str, np.ndarray, dict[str, str], tuple]]:
    """Every shape in the order of drawing: its commands, points, style with all that it inherits, and its clip's box."""
    root = ElementTree.fromstring(svg)
    ids = {part.get("id"): part for part in root.iter() if part.get("id")}
    classes = dict(re.findall(r"\.(\w+)\s*\{([^}]*)\}", root.find(f".//{SVG}style").text))

    def looks(part: Element) -> dict[str, str]:
        text = f"{classes.get(part.get('class'), '')};{part.get('style', '')}"
        pairs = [pair.partition(":")[::2] for pair in text.split(";") if pair.strip()]
        return {name.strip(): spelled(value.strip()) for name, value in pairs}

    def spelled(value: str) -> str:
        if found := re.search(r"url\(#([\w.-]+)\)", value):
            return "".join(path.get("d")[0].lower() for path in ids[found[1]].iter(f"{SVG}path"))
        value = re.sub(r"^#(\w)(\w)(\w)$", r"#\1\1\2\2\3\3", value.replace(", ", ","))
        return ",".join(f"{float(n):.4g}" for n in re.split("[ ,]", value)) if re.match(r"[\d.]", value) else value

    def box(part: Element) -> tuple:
        name = re.search(r"#([\w.-]+)", part.get("clip-path", ""))
        return () if not name else tuple(float(ids[name[1]][0].get(key)) for key in ("x", "y", "width", "height"))

    def walk(part: Element, outer: np.ndarray, look: dict, clip: tuple):
        if part.tag in (f"{SVG}defs", f"{SVG}metadata"):
            return
        here, look, clip = outer @ matrix(part.get("transform", "")), look | looks(part), box(part) or clip
        if part.tag == f"{SVG}use":
            shift = f"translate({part.get('x', 0)} {part.get('y', 0)})"
            yield from walk(ids[(part.get(HREF) or part.get("href"))[1:]], here @ matrix(shift), look, clip)
        elif part.get("d"):  # a space has none
            commands, told = points(part.get("d"))
            yield commands, np.c_[told, np.ones(len(told))] @ here.T[:, :2], look, clip
        for child in part:
            yield from walk(child, here, look, clip)

    yield from walk(root, np.eye(3), {}, ())


def test_a_compact_drawing_has_the_same_shapes_at_the_same_places(raw):
    theirs, ours = list(shapes(raw)), list(shapes(vector.compact(raw)))
    assert len(ours) == len(theirs) > 100
    assert [shape[0] for shape in ours] == [shape[0] for shape in theirs]
    assert [shape[2] for shape in ours] == [shape[2] for shape in theirs]
    assert max(np.abs(a[1] - b[1]).max() for a, b in zip(ours, theirs, strict=True)) < POINT
    clips = [(a[3], b[3]) for a, b in zip(ours, theirs, strict=True)]
    assert any(a for a, _ in clips) and all(a == pytest.approx(b, abs=0.01) for a, b in clips)


def test_a_point_that_moves_is_seen(raw):
    ours = vector.compact(raw)
    moved = re.sub(r"translate\((\d+)", lambda each: f"translate({int(each[1]) + 1}", ours, count=1)
    pairs = zip(shapes(moved), shapes(ours), strict=True)
    assert max(np.abs(a[1] - b[1]).max() for a, b in pairs) > 10 * POINT


def test_it_is_less_than_half_and_again_changes_nothing(raw):
    ours = vector.compact(raw)
    assert len(ours) < 0.5 * len(raw)
    assert vector.compact(ours) == ours


def test_no_id_is_left_without_a_reference_and_no_reference_without_its_id(raw):
    ours = vector.compact(raw)
    ids, named = re.findall(r"id='(\w+)'", ours), set(re.findall(r"(?:url\(|href=')#(\w+)", ours))
    assert len(ids) == len(set(ids)) and set(ids) == named


@pytest.mark.parametrize(
    ("d", "told"),
    [
        ("M 1 2 \nL 3.456 2 \nL 3.456 -0.5 \nz\n", "m1 2h2.46v-2.5z"),
        ("M 0 0 \nL 0.004 0 \nL 10 0.5 \n", "m0 0h0l10 .5"),
        ("M 1 1 \nL 2 2 \nz\nM 5 5 \nQ 6 6 7 5 \n", "m1 1l1 1zm4 4q1 1 2 0"),
        ("M 1 1 \nM 2 2 \nL 3 3 \n", "m1 1m1 1l1 1"),
        ("M 1e-05 0 \nL 1 -1e-05 \n", "m0 0h1"),
    ],
)
def test_paths_by_hand(d, told):
    assert vector.path(d, 1.0, 100) == told


def test_rounding_does_not_add_up_along_a_line():
    x = np.arange(1, 2_000) * 0.333333
    d = "M 0 0 " + " ".join(f"L {value} {value}" for value in x)
    assert np.abs(points(vector.path(d, 1.0, 100))[1][-1] - x[-1]).max() < 0.006


def test_a_figure_is_written_compact_and_its_png_has_few_colours(tmp_path):
    from PIL import Image

    figure = Figure(figsize=(3, 2), layout="constrained")
    figure.subplots().plot([1, 2, 3], [3, 1, 2])
    chart.save(figure, tmp_path / "line")
    svg = (tmp_path / "line.svg").read_text()
    assert vector.compact(svg) == svg and "metadata" not in svg
    with Image.open(tmp_path / "line.png") as image:
        assert image.mode == "P" and image.getpixel((0, 0)) == image.getpixel((image.width - 1, image.height - 1))

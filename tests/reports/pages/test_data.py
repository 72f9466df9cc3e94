"""The page on what the data hold: its numbers against the record's, and what it says where there is none."""

import re
from html import unescape

import numpy as np
import pytest
from mlflow import MlflowClient

from repro.reports.pages import data, index, page
from repro.reports.reading.studies import read_study
from tests import blank
from tests.reports.made_up import ARMS, Fake, experiment, log


def of_texts(limit, counts, **cut):
    return {"limit": limit, "counts": counts, **cut}


def posts(rows, given=0):
    told = {
        "query": of_texts(8, [0] * 7 + [rows - 1, 1], cut=1),
        "reference": of_texts(3, [0, 0, rows - 2, 0, 0, 2], cut=2),
        "query + reference": of_texts(11, [0] * 9 + [rows], cut=0),
    }
    return {
        "given": given or rows,
        "rows": rows,
        "lengths": told,
        "texts": rows,
        "start_with_space": rows,
        "end": rows - 2,
    }


def pairs(rows, policies, confidence, batches):
    of_side = of_texts(4, [0, 0, 0, rows], cut=0)
    joint = of_texts(12, [0] * 10 + [rows], cut=0)
    return {
        "given": rows,
        "rows": rows,
        "lengths": {
            "query": of_texts(8, [0] * 7 + [rows]),
            "chosen": of_side,
            "rejected": of_texts(4, [0, 0, rows], cut=0),
            "query + chosen": joint,
            "query + rejected": joint,
        },
        "texts": 2 * rows,
        "start_with_space": rows,
        "end": 2 * rows,
        "confidence": confidence,
        "batches": batches,
        "policies": policies,
        "policy_pairs": {"ppo vs ref": rows},
    }


def record(corpus="embedded"):
    """A corpus of a hundred posts whose validation comparisons are of another policy in part."""
    return {
        "corpus": corpus,
        "posts": {"train": posts(100, given=103), "validation": posts(20)},
        "pairs": {
            "train": pairs(50, {"ppo": [30, 20], "ref": [20, 30]}, {"9": 30, "-1": 20}, {"<script>": 50}),
            "validation": pairs(10, {"ppo": [5, 0], "new": [5, 10]}, {"-1": 10}, {"<script>": 4, "late": 6}),
        },
        "shared": [
            {"of": "posts/validation", "in": "posts/train", "posts": 3, "all": 20},
            {"of": "posts/train", "in": "posts/validation", "posts": 3, "all": 100},
        ],
    }


@pytest.fixture(scope="module")
def studies(store):
    """name -> a study: of one corpus, of a local one, of arms with different data, and without any record."""
    client, found = MlflowClient(store), {}
    told = {
        "embedded": {ARMS[0]: record()},
        "local": {ARMS[0]: record("local")},
        "several": {ARMS[0]: record(), "off": record(), "scale_only": "{broken"},
        "silent": {},
    }
    for name, kept in told.items():
        own = experiment(store, f"{name}-mini")
        for start, arm in enumerate(ARMS, start=1):
            keys = {"detail": name} | ({"stage.data": f"data-{arm}"} if name == "several" else {})
            run = log(store, own, Fake(arm, 1, curves=False, tags=keys), start=start)
            if isinstance(kept.get(arm), dict):
                client.log_dict(run, kept[arm], "data.json")
            elif arm in kept:
                client.log_text(run, kept[arm], "data.json")
        found[name] = read_study(name, "mini", store)
    return found


@pytest.fixture(scope="module")
def built(studies, tmp_path_factory):
    """name -> the page's text and the folder it is in."""
    found = {}
    for name, study in studies.items():
        out = tmp_path_factory.mktemp(name)
        with pytest.MonkeyPatch.context() as patch:
            if name != "embedded":  # the figures of one are enough
                blank.instead(patch.setattr)
            link = data.build(study, out)
        found[name] = ((out / link).read_text(encoding="utf-8") if link else "", out)
    return found


def cells(html, *words):
    """The cells of the first table row that begins with these words, without marks."""
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in re.findall(r"<tr.*?</tr>", html, re.DOTALL)]
    told = [[" ".join(unescape(re.sub(r"<[^>]+>", " ", cell)).split()) for cell in row] for row in rows]
    return next(row for row in told if row[: len(words)] == list(words))


def test_the_counts_stand_beside_the_papers_and_an_embedded_corpus_is_not_compared(built):
    html, _ = built["embedded"]
    assert cells(html, "posts", "train") == ["posts", "train", "100", "3", "116,722", "not this corpus"]
    assert cells(html, "", "test")[2:] == ["–", "–", "6,553", "–"]
    assert cells(html, "", "validation_cnndm")[4] == "about 2,280"


def test_another_corpus_is_compared_with_the_papers(built):
    html, _ = built["local"]
    assert cells(html, "posts", "train")[2:] == ["100", "3", "116,722", "\N{MINUS SIGN}116,622"]
    assert cells(html, "comparisons", "train")[2:] == ["50", "0", "92,858", "\N{MINUS SIGN}92,808"]
    assert "not this corpus" not in html


def test_lengths_limits_and_what_they_cut_are_told(built):
    html, _ = built["embedded"]
    assert cells(html, "", "", "reference") == ["", "", "reference", "2", "2", "5", "3", "2 2.0 %"]
    assert cells(html, "comparisons", "train", "query") == ["comparisons", "train", "query", "7", "7", "7", "8", "–"]


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2), (0.9, 2), (0.95, 5), (1.0, 5)])
def test_a_quantile_is_the_shortest_length_that_covers_the_share(share, expected):
    assert data.quantile([0, 0, 9, 0, 0, 1], share) == expected


def test_what_validation_has_that_training_has_not_is_counted():
    train, validation = data.labels(record())
    assert (train["new_policies"], train["new_pairs"], train["new_batches"]) == (0, 0, 0)
    assert (validation["new_policies"], validation["new_pairs"], validation["new_batches"]) == (0.75, 0, 0.6)


def test_posts_that_splits_share_are_a_matrix(built):
    told = data.overlaps(record())
    assert told["names"] == ["posts, train", "posts, validation", "comparisons, train", "comparisons, validation"]
    assert [row["cells"][0] for row in told["rows"]] == [None, (3, 20), None, None]
    assert cells(built["embedded"][0], "posts, validation")[1] == "3 15.0 %"


def test_a_batchs_name_cannot_leave_the_page(built):
    assert "<script>" not in built["embedded"][0].partition("<main>")[2].partition("</main>")[0]
    assert "&lt;script&gt;" in built["embedded"][0]


def test_histograms_hold_every_row_and_the_figures_are_there(built):
    rows = data.length_data(record(), "posts")
    assert rows.groupby(["split", "what"])["rows"].sum().unique().tolist() == [100, 20]
    figure = data.draw_lengths(rows)
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels[:3]] == ["train: query", "train: reference", "train: query + reference"]
    for axes in panels:
        assert {round(float(np.sum(patch.get_data().values)), 9) for patch in axes.patches} == {1.0}
    _, out = built["embedded"]
    for chart in data.CHARTS:
        assert {file.suffix for file in (out / "figures").glob(f"{chart.name}.*")} == {".png", ".svg", ".csv"}


def test_a_split_without_confidence_has_no_panel():
    rows = data.confidence_data(record())
    assert rows.to_dict("list") == {"split": ["train"] * 2, "confidence": [-1, 9], "comparisons": [20, 30]}
    (axes,) = data.draw_confidence(rows).axes
    assert axes.get_title() == "train (40 % have none)" and [bar.get_height() for bar in axes.patches] == [0.6]


def test_the_rarest_of_many_policies_are_summed_up():
    told = record()
    many = {f"p{i:02}": [i, 1] for i in range(data.POLICIES + 4)}
    told["pairs"] = {"train": told["pairs"]["train"] | {"policies": many}}
    rows = data.policy_data(told)
    assert len(rows) == data.POLICIES + 1 and rows["policy"].iloc[0] == f"p{data.POLICIES + 3}"
    assert rows.iloc[-1].to_dict() == {"split": "train", "policy": "4 others", "chosen": 0 + 1 + 2 + 3, "rejected": 4}


def test_arms_with_data_of_their_own_have_a_part_each_and_an_unreadable_record_is_named(built):
    html, out = built["several"]
    assert html.count("<h2>Rows</h2>") == 2 and "data-off" in html
    assert (out / "figures" / "data_policies_2.svg").is_file()
    assert "the data of scale_only" in " ".join(html.split()) and "No checks were recorded" in html


def test_a_study_of_an_earlier_version_says_so_and_keeps_no_stale_page(studies, built, undrawn, tmp_path):
    assert built["silent"][0] == ""
    (tmp_path / data.PAGE).write_text("of another time")
    text = page.build(studies["silent"], tmp_path).read_text(encoding="utf-8")
    assert "No checks of the data were recorded" in text and not (tmp_path / data.PAGE).exists()


def test_the_studys_page_and_the_index_lead_to_it(studies, store, undrawn, tmp_path):
    text = page.build(studies["embedded"], tmp_path / "embedded").read_text(encoding="utf-8")
    assert f'href="{data.PAGE}"' in text and (tmp_path / "embedded" / data.PAGE).is_file()
    assert f'href="embedded/{data.PAGE}"' in index.build(tmp_path, store, []).read_text(encoding="utf-8")

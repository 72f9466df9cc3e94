"""The page on speed: its tables come out of the benchmarks' files, between its markers, and nothing else is touched."""

import json

import pytest

from benchmarks import render

ABOUT = {"processor": "P 9000", "cores": 2, "torch": "2.13.0", "date": "2026-11-28T07:00+00:00", "commit": "abc1234"}
SPREAD = {"median": 2.0, "min": 1.0, "max": 4.0}
SHAPE = {"network": "gpt-neox:64/2/2/256", "vocabulary": 1024, "query": 64, "response": 24, "batch": 64}
RATES = ("plain_rate", "bound_seconds", "seconds", "share_of_bound", "episodes_per_second")
BENCH = {
    "kind": "bench",
    "about": ABOUT,
    "ppo": {"S": dict.fromkeys(RATES, SPREAD) | {"flops": 3e9, "peak_gib": 0.5, "threads": 2, "shape": SHAPE}},
    "stages": {
        "scale": "mini",
        "budget": 0.25,
        "stages": {
            "data": {"seconds": 7.0, "flops": 0.0, "bound_seconds": 0.0, "peak_gib": 0.4},
            "rm": {"seconds": 8.0, "flops": 4e10, "bound_seconds": 2.0, "peak_gib": 0.6},
        },
    },
    "workers": {"alone": SPREAD, "side_by_side": SPREAD, "ratio": SPREAD, "target": 1.9},
}
SIDE = {"seconds": SPREAD, "busy": SPREAD, "peak_gib": 0.5, "episodes_per_second": SPREAD}
LOADS = {
    "load": {"threads": 2},
    "rounds": 5,
    "sides": {"ours (abc1234)": SIDE, "TRL 1.12.0": SIDE | {"ratio": SPREAD, "ratio_busy": SPREAD}},
    "others_share_of_cores": 0.01,
}
PEER = {"kind": "peer", "about": ABOUT, "loads": {"ppo:S": LOADS}}
CHAIN = LOADS | {
    "sides": {
        "ours (abc1234)": SIDE | {"runs": [{"stages": {"rm": 40.0}}, {"stages": {"rm": 50.0}}]},
        "other (9adb790)": SIDE | {"runs": [{"stages": {"rm": 80.0}}, {"stages": {"rm": 75.0}}], "ratio": SPREAD},
    }
}
COMMITS = {"kind": "commits", "about": ABOUT, "loads": {"chain:mini": CHAIN}}


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A copy of the page as it is."""
    copy = tmp_path / "performance.md"
    copy.write_text(render.PAGE.read_text())
    monkeypatch.setattr(render, "PAGE", copy)
    return copy


def written(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return [str(folder / f"{name}.json") for name in files]


def test_every_table_is_filled_and_all_else_stays(page, tmp_path):
    before = page.read_text()
    assert render.main(written(tmp_path, bench=BENCH, peer=PEER, commits=COMMITS)) == 0
    text = page.read_text()
    assert "| S (64/2/2/256/1024, 64 + 24) | 3.0 | 0 (0 to 0) | 2.00 (1.00 to 4.00) |" in text
    assert "| rm | 40.0 | 20 | 2.00 | 8.0 | 25% | 0.60 |" in text and "| data |  |  |  | 7.0 |  | 0.40 |" in text
    assert "| ppo:S | 2 | 5 | TRL 1.12.0 | 2.00 (1.00 to 4.00) |" in text and "at most 1% of the cores" in text
    assert text.count("P 9000, 2 cores, torch 2.13.0; commit abc1234, 2026-11-28.") == 5
    assert "| chain:mini | rm | 45.0 (40.0 to 50.0) | 77.5 (75.0 to 80.0) | 1.75 (1.50 to 2.00) |" in text
    assert [line for line in before.splitlines() if line.startswith(("#", "- ", "<!--"))] == [
        line for line in text.splitlines() if line.startswith(("#", "- ", "<!--"))
    ]


def test_filling_it_twice_is_filling_it_once(page, tmp_path):
    files = written(tmp_path, bench=BENCH, peer=PEER)
    render.main(files)
    once = page.read_text()
    render.main(files)
    assert page.read_text() == once


def test_a_part_that_was_not_run_keeps_its_table(page, tmp_path):
    render.main(written(tmp_path, bench=BENCH))
    filled = page.read_text()
    some = {name: BENCH[name] for name in ("kind", "about", "workers")}
    assert render.main(written(tmp_path, some=some)) == 0 and page.read_text() == filled


@pytest.mark.parametrize("content", [{"kind": "else"}, {}, [1]])
def test_another_file_is_refused_in_one_line_and_the_page_stays(content, page, tmp_path, capsys):
    before = page.read_text()
    assert render.main(written(tmp_path, other=content)) == 2
    assert "is no file of" in capsys.readouterr().err and page.read_text() == before


def test_without_a_file_or_a_marker_it_says_so(page, tmp_path, capsys):
    assert render.main([]) == 2 and "name the files" in capsys.readouterr().err
    page.write_text(page.read_text().replace("<!-- /bench-ppo -->", ""))
    assert render.main(written(tmp_path, bench=BENCH)) == 2 and "<!-- /bench-ppo -->" in capsys.readouterr().err


def test_the_page_has_room_for_the_gpu():
    text = render.PAGE.read_text()
    assert text.index("<!-- gpu-check -->") < text.index("<!-- /gpu-check -->")

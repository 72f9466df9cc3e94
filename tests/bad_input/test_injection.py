"""Text of a model, a post or a file is shown as text: no terminal obeys it, rich sees no markup in it, no browser runs it."""

import json
from types import SimpleNamespace

import pytest
from rich.console import Console

from repro.__main__ import main
from repro.api import terminal
from repro.api.progress import Progress
from repro.engine.dag import Dag
from repro.errors import UserError, printable
from repro.reports.pages import inspect, markup
from repro.reports.reading.episodes import Trace
from repro.tracking import transfer
from tests.bad_input.case import fill
from tests.bad_input.hostile import LIVE, OBEYED, TEXTS
from tests.reports.pages.test_episode import record

every = pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)


def trace(text):
    told = record(0, [" a", text, " b"]) | {"query": f"POST: {text}", "reference": text, "post_id": text}
    return Trace("run", f"whiten_adv/{text}/1", "whiten_adv", text, "<|endoftext|>", "sft", [told])


@every
def test_an_episode_in_the_terminal_is_text(text, monkeypatch, capsys):
    monkeypatch.setattr(inspect, "read_trace", lambda *_: trace(text))
    plain = Console(width=136)
    plain.print(inspect.listing("", ""))
    plain.print(inspect.shown("", "", 0))
    told = capsys.readouterr().out
    assert not OBEYED.search(told), ascii(told)
    words = printable(text).split("\n")[0][:20]
    assert words.strip("\\") in told or "\\u2028" in words


@every
def test_a_coloured_episode_has_no_colours_but_ours(text, monkeypatch, capsys):
    monkeypatch.setattr(inspect, "read_trace", lambda *_: trace(text))
    Console(width=136, force_terminal=True, color_system="truecolor").print(inspect.shown("", "", 0))
    told = capsys.readouterr().out
    assert not OBEYED.search(told.replace("\x1b[", "")), ascii(told)
    assert "\x1b[31mred" not in told and "\x1b[2J" not in told


@every
def test_an_episodes_page_runs_nothing(text, monkeypatch, tmp_path):
    monkeypatch.setattr(inspect, "read_trace", lambda *_: trace(text))
    page = inspect.build_one("", "", 0, tmp_path).read_text()
    assert not LIVE.search(page) and not OBEYED.search(page)


@every
def test_a_template_shows_it_as_text(text, tmp_path, monkeypatch):
    (tmp_path / "page.html.j2").write_text('<p title="{{ text }}">{{ text }}</p>')
    monkeypatch.setattr(markup, "TEMPLATES", tmp_path)
    page = markup.render("page.html.j2", text=text)
    assert not LIVE.search(page) and not OBEYED.search(page)
    assert page.count("<") == 2 and page.count('"') == 2


@every
def test_what_a_verb_says_is_text(text, capsys):
    terminal.say(text)
    terminal.say_study(
        SimpleNamespace(detail=SimpleNamespace(name="x"), scale=SimpleNamespace(name=text), question=text)
    )
    terminal.complain(text)
    told = capsys.readouterr()
    assert not OBEYED.search(told.out + told.err)
    assert told.out == f"{printable(text)}\nx at scale {printable(text)}: {printable(text)}\n"


@every
def test_a_message_is_one_line_of_text(text):
    said = str(UserError(f"{text}\nis wrong"))
    assert not OBEYED.search(said) and "\n" not in said and said.endswith("\\nis wrong")


@pytest.mark.parametrize("text", [text for name, text in TEXTS.items() if name != "half a pair"])  # TOML has none
def test_a_question_of_a_study_is_printed_as_it_stands(text, place, capsys):
    question = "".join(f"\\U{ord(character):08x}" for character in text)
    study = f'detail = "whiten_adv"\nscale = "smoke"\nquestion = "{question}"\nset = {{tokenizer = "t.json"}}\n'
    fill(place, {"ablations/mine.toml": study, "t.json": "garbage"})
    assert main(["run", "mine"]) == 2
    told = capsys.readouterr()
    assert printable(text) in told.out and not OBEYED.search(told.out + told.err)


@every
def test_the_studies_of_another_store_are_named_as_text(text, place, monkeypatch, capsys):
    found = [transfer.Imported(text, text, transfer.SKIPPED, text)]
    monkeypatch.setattr(transfer, "source_of", lambda location: location)
    monkeypatch.setattr(transfer, "import_studies", lambda *_: found)
    assert main(["import", "elsewhere"]) == 1
    told = capsys.readouterr()
    assert not OBEYED.search(told.out + told.err) and printable(text)[:20] in told.err


@every
def test_a_stage_that_fails_says_why_in_text(text, capsys):
    job = SimpleNamespace(label="sft off seed 1", key="k", needs=[])
    dag = Dag({"k": job}, None, failed={"k": text})
    progress = Progress(dag, 1, Console(soft_wrap=True))
    progress.printed = set()
    progress.update(trouble=text)
    terminal.print_failures(dag)
    told = capsys.readouterr()
    assert not OBEYED.search(told.out + told.err)
    assert printable(text) in told.out and printable(text) in told.err


@every
def test_data_in_a_page_is_data(text):
    island = inspect.island({text: trace(text)}, {text: "#000"})
    assert "<" not in island and not OBEYED.search(island)
    assert json.loads(island)["arms"][0]["label"] == text

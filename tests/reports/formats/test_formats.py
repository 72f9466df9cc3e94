"""A study as slides, LaTeX and CSV: the same words and numbers as its page, and nothing that a reader's machine lacks."""

import re
import shutil
import subprocess
from dataclasses import replace

import pandas as pd
import pytest

from repro.__main__ import main
from repro.reports.figures import curves, style
from repro.reports.formats import formats, latex, slides, tables
from repro.reports.pages import page
from repro.reports.reading import terms
from repro.reports.statistics.findings import analyse
from tests import blank

EVIL = r"50 % of $x_1$ & {y} #2 ~ ^ \input{secret} <b> 😀 −1"


@pytest.fixture(scope="module")
def findings(study):
    return analyse(study)


@pytest.fixture(scope="module")
def built(study, tmp_path_factory):
    """A page with its figures, and every form beside it."""
    with pytest.MonkeyPatch.context() as patch:
        blank.instead(patch.setattr)
        file = page.build(study, tmp_path_factory.mktemp("built") / "whiten_adv")
        return {form: {each.name: each for each in formats.build(study, file, form)} for form in formats.FORMATS}


# ------------------------------------------------------------------------------------------------ CSV


def test_tables_have_the_findings_numbers_and_name_their_units(built, study, findings):
    frame = pd.read_csv(built["csv"]["verdicts.csv"])
    assert frame["arm"].tolist() == findings.verdicts["arm"].tolist()
    assert frame["verdict"].tolist() == findings.verdicts["verdict"].tolist()
    unit = terms.bracketed(study.primary)
    assert unit == " [share]"
    for column, name in ((f"mean difference{unit}", "mean"), (f"interval low{unit}", "low")):
        assert frame[column].tolist() == pytest.approx(findings.verdicts[name].tolist(), rel=1e-6)


def test_finals_and_curves_are_tidy_and_each_value_has_its_unit(built, study):
    finals, curves = (pd.read_csv(built["csv"][f"{name}.csv"]) for name in ("finals", "curves"))
    assert list(finals) == ["arm", "seed", "metric", tables.VALUE, "unit"]
    assert len(finals) == study.finals["value"].notna().sum() and finals[tables.VALUE].notna().all()
    assert list(curves) == ["arm", "seed", "metric", tables.STEP, tables.VALUE, "unit"]
    assert len(curves) == len(study.curves)
    assert set(curves.loc[curves["metric"] == "objective/kl", "unit"]) == {"nats"}
    assert curves.loc[curves["metric"] == "policy/ratio", "unit"].isna().all()


# ------------------------------------------------------------------------------------------------ LaTeX


def plain(text):
    """LaTeX without its escapes: what is left of a special character is a mistake."""
    text = re.sub(r"\$(?:-|\\[a-z]+)\$", "", text)
    return re.sub(r"\\[a-zA-Z]+(?:\{\})?|\\[{}$&#%_\\]", "", text)


def test_what_latex_would_obey_is_escaped_and_braces_balance():
    shown = latex.escaped(EVIL)
    assert not re.search(r"[\\{}$&#%_^~<>]", plain(shown)), plain(shown)
    assert r"\textbackslash{}input\{secret\}" in shown and "U+1F600" in shown and shown.isascii()
    for letter in latex.ESCAPES:
        assert latex.escaped(letter) != letter
    assert latex.escaped("--scale a - b") == "-{}-scale a - b" and latex.escaped("[1]*") == "{[}1{]}{*}"
    assert latex.escaped("a\nb\x1b") == r"a b\textbackslash{}x1b"


@pytest.mark.parametrize("name", ["verdicts.tex", "settings.tex"])
def test_a_table_is_whole(name, built):
    text = built["latex"][name].read_text()
    stripped = re.sub(r"\\[{}]", "", text)
    assert stripped.count("{") == stripped.count("}")
    opened, closed = (re.findall(rf"\\{word}\{{(\w+)\}}", text) for word in ("begin", "end"))
    assert opened == closed[::-1] == ["table", "tabular"]
    columns = re.search(r"\\begin\{tabular\}\{(.*)\}$", text, re.MULTILINE)[1]
    count = len(re.sub(r"p\{[^}]*\}", "p", columns))
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(rows) > 2 and {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {count - 1}
    assert [body.count(rule) for rule in (r"\toprule", r"\midrule")] == [1, 1]


def test_the_tables_say_the_verdicts_and_settings_of_the_page(built, findings, study):
    text = built["latex"]["verdicts.tex"].read_text()
    for row in findings.verdicts.itertuples():
        line = next(line for line in text.splitlines() if line.startswith(f"{latex.escaped(row.arm)} & "))
        assert line.endswith(rf"{row.verdict} \\") and f"& {row.n} &" in line
    settings = built["latex"]["settings.tex"].read_text()
    assert latex.escaped(study.runs["commit"].iloc[0]) in settings and "make ablation DETAIL=whiten" in settings
    assert r"\input{verdicts}" in built["latex"]["example.tex"].read_text()


def test_a_name_that_is_a_command_stays_a_name(study, findings):
    told = replace(study, tags=study.tags | {"question": EVIL}, detail="x_$")
    text = latex.verdicts(told, findings)
    assert r"\input{secret}" not in text and r"\label{tab:x---verdicts}" in text


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex")
def test_the_example_article_is_set_without_an_error_and_within_its_margins(built, tmp_path):
    for file in built["latex"].values():
        shutil.copy(file, tmp_path)
    words = ["pdflatex", "-interaction=nonstopmode", "example.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert [line for line in done.stdout.splitlines() if line.startswith(("!", "Overfull"))] == []


# ------------------------------------------------------------------------------------------------ slides


def test_slides_stand_alone_and_show_the_studys_own_figures(built):
    html = built["slides"]["slides.html"].read_text()
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", html) and "@import" not in html and "url(" not in html
    assert html.count('src="data:image/svg+xml,') == len(slides.FIGURES) + 1 == 3
    titles = re.findall(r"<h[12]>(.*?)</h[12]>", html, re.DOTALL)
    assert len(titles) == html.count('<section class="slide') == 6
    assert "the dotted line is the references’ own" in html.replace("&#39;", "’") and "±0.020, shaded." in html
    assert html.count("small marks are single seeds") == 2  # of the effect: in its caption, and in the words below it


def test_slides_say_the_verdicts_and_how_to_get_it_again(built, findings, study):
    html = built["slides"]["slides.html"].read_text()
    shown = dict(re.findall(r'data-arm="([^"]+)" data-word="([^"]+)"', html))
    assert shown == findings.verdicts.set_index("arm")["verdict"].to_dict()
    assert study.tags["question"] in html and "make ablation DETAIL=whiten_adv" in html
    assert "<script>alert" not in html and "&lt;script&gt;alert" in html


def test_a_study_without_curves_and_samples_has_slides(study, findings, tmp_path):
    bare = replace(study, curves=study.curves.head(0), samples={})
    html = slides.render(bare, analyse(bare), tmp_path)
    assert html.count('<section class="slide') == 3 and "<img" not in html


def test_the_curves_of_a_slide_are_few_and_lie_beside_each_other(study, findings):
    data = curves.slide_data(study, findings)
    assert set(data["metric"]) == {"objective/score", "objective/kl", "eval/win_rate", study.primary}
    with style.panel_context():
        figure = curves.draw_slide(data, study)
    assert list(figure.boxes) == ["objective/score", "eval/win_rate", "objective/kl"]
    assert len({top for _, top, _, _ in figure.boxes.values()}) == 1
    wide, high = figure.get_size_inches()
    assert 1.6 < wide / high < 2.2  # as what is left of a slide


def test_the_predictions_of_a_slide_are_said_with_what_became_of_them(findings):
    told = slides.predictions(findings)
    assert sum(len(row["arms"]) for row in told) == len(findings.predictions)
    known = findings.predictions.set_index(["metric", "arm"])["result"]
    assert all(known[row["metric"], arm] == row["result"] for row in told for arm in row["arms"])
    many = pd.concat([findings.predictions.assign(metric=f"m{i}") for i in range(slides.PREDICTED)])
    assert slides.predictions(replace(findings, predictions=many)) == []


def test_what_the_arms_do_is_on_the_first_slide_and_in_the_settings(study, findings, tmp_path):
    told = replace(study, runs=study.runs.assign(does=study.runs["arm"].map({"off": "as they are, 100 %"}).fillna("")))
    first = slides.render(told, findings, tmp_path).partition("</section>")[0]
    assert "as they are, 100 %" in first and "as they are" not in slides.render(study, findings, tmp_path)
    assert r" & off: as they are, 100 \% \\" in latex.settings(told)
    assert f"arms & {latex.escaped(', '.join(study.arms))} " in latex.settings(study)


# ------------------------------------------------------------------------------------------------ the verb


@pytest.fixture
def place(store, tmp_path, monkeypatch, undrawn):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    blank.instead(monkeypatch.setattr)
    return tmp_path / "reports" / "build" / "whiten_adv" / formats.FOLDER


def test_the_verb_says_where_the_files_are_and_the_same_store_gives_the_same_bytes(place, capsys):
    assert main(["report", "whiten_adv", "--format", "csv"]) == 0
    assert "csv: reports/build/whiten_adv/formats/verdicts.csv, " in capsys.readouterr().out
    first = {file.name: file.read_bytes() for file in place.iterdir()}
    assert main(["report", "whiten_adv", "--format", "csv"]) == 0
    assert {file.name: file.read_bytes() for file in place.iterdir()} == first
    assert main(["report", "whiten_adv"]) == 0 and not place.exists()  # what was of an earlier page


def test_an_unknown_format_is_one_sentence(place, capsys):
    assert main(["report", "whiten_adv", "--format", "slide"]) == 2
    error = capsys.readouterr().err
    assert error == "error: there is no format 'slide'; did you mean 'slides'? known: slides, latex, csv\n"
    assert not place.exists()

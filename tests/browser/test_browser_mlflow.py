"""MLflow's own pages on a real study, as `python -m repro ui` opens them."""

import signal
import socket
from contextlib import closing

import pytest

from repro.tracking.present import COLUMNS
from tests.browser.place import ARM, ARMS, DETAIL, REFERENCE, SCALE, SEEDS, start
from tests.browser.watch import broken_images

pytestmark = pytest.mark.browser
# What MLflow's pages say of themselves: nobody is logged in, two settings of their table's library have other names by
# now, and a layout took longer than a frame.
NOISE = ("/ajax-api/2.0/mlflow/users/current", "AG Grid: since v27.1", "ResizeObserver loop completed")
WIDE = 1800  # the runs table lets columns that are out of sight out of the page
SLOW = 60_000  # ms
STUDY = f"{DETAIL} {SCALE} ({len(ARMS)} arms x {len(SEEDS)} seeds)"


def run_of(arm, seed):
    """The name of a run of the study."""
    return f"{DETAIL}={arm} seed {seed} {SCALE}"


@pytest.fixture(scope="module")
def served(place):
    """The address that the verb says, while it serves it; an interrupt ends it."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start(place.folder, "ui", DETAIL, "--scale", SCALE, "--port", str(port))
    try:
        address = process.stdout.readline().strip()
        assert address.startswith(f"http://127.0.0.1:{port}/"), address
        yield address
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) in (0, 130)


@pytest.fixture
def opened(served, watch, visit):
    """The page that the verb opens, of the study's runs, without the assistant that MLflow opens beside it."""
    watch.serves(served, NOISE)
    page = visit(served, WIDE)
    page.set_default_timeout(SLOW)
    page.get_by_role("link", name=run_of(ARM, SEEDS[0])).wait_for()
    page.get_by_role("button", name="Close", exact=True).click()
    return page


def test_the_runs_are_listed_by_name_with_the_columns_by_which_one_sorts(place, opened, shots):
    for arm, seed in place.runs:
        assert opened.get_by_role("link", name=run_of(arm, seed), exact=True).count() == 1
    heads = opened.locator(".ag-header-cell").all_inner_texts()
    assert {"arm", "seed", "outcome", *COLUMNS} <= {head.strip() for head in heads}
    for (arm, seed), run in place.runs.items():
        cells = opened.locator(f"[row-id='{run.info.run_id}']")
        for column, value in {"tags.`arm`": arm, "params.`seed`": str(seed), "tags.`outcome`": "finished"}.items():
            assert cells.locator(f'[col-id="{column}"]').inner_text() == value
        for metric in COLUMNS:
            shown = float(cells.locator(f'[col-id="metrics.`{metric}`"]').inner_text())
            assert shown == pytest.approx(run.data.metrics[metric])
    opened.screenshot(path=shots / "mlflow-runs.png")


def to_study(page):
    """From the runs table to the run that they hang under."""
    page.get_by_role("link", name=STUDY).click()
    page.get_by_role("link", name=run_of(ARM, SEEDS[1])).wait_for()


def report_of(page):
    """The report inside MLflow's page of its artifacts."""
    page.locator("iframe").wait_for()
    report = page.locator("iframe").element_handle().content_frame()
    report.locator("#samples summary").first.click()  # sections are closed until they are wanted
    report.wait_for_selector("#posts")
    return report


def test_the_description_says_question_and_verdict_and_leads_to_the_report(opened, shots):
    to_study(opened)
    told = opened.get_by_text("Does whitening the advantages matter?").first.locator("xpath=..")
    assert f"Undecided whether {ARM} differs from {REFERENCE}" in told.inner_text()
    opened.screenshot(path=shots / "mlflow-study.png")
    with opened.expect_popup() as report:
        opened.get_by_role("link", name="Report", exact=True).click()
    assert report_of(report.value).locator("h1").inner_text() == DETAIL


def test_the_report_works_inside_mlflow(place, opened, shots):
    to_study(opened)
    opened.goto(f"{opened.url}/artifacts/report/index.html")
    report = report_of(opened)
    opened.screenshot(path=shots / "mlflow-report.png")
    assert broken_images(report) == []
    posts = report.locator(".post:visible")
    every = posts.count()
    report.locator("#find").fill(place.samples(REFERENCE, SEEDS[0])["reference"][0])
    assert 0 < posts.count() < every


def test_a_run_says_what_it_changes_how_it_ended_and_what_it_belongs_to(opened, shots):
    opened.get_by_role("link", name=run_of(ARM, SEEDS[0])).click()
    opened.get_by_text(f"{DETAIL} = {ARM}, instead of {REFERENCE}").first.wait_for()
    opened.get_by_text("Outcome: finished, test/sampled_win_rate").first.wait_for()
    opened.get_by_role("link", name=STUDY).wait_for()
    opened.screenshot(path=shots / "mlflow-run.png")


def test_the_samples_are_a_table(place, opened, shots):
    opened.get_by_role("link", name=run_of(ARM, SEEDS[0])).click()
    opened.get_by_role("tab", name="Artifacts").click()
    opened.get_by_text("samples.json", exact=True).first.click()
    first = place.samples(ARM, SEEDS[0]).iloc[0]
    opened.get_by_text(first["summary"]).first.wait_for()
    assert opened.get_by_text(str(first["score"])).count() > 0  # as it was written, no digit rounded
    opened.screenshot(path=shots / "mlflow-samples.png")

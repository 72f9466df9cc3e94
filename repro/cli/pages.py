"""Builds pages from the MLflow store: of a study, on all details at a scale, and the index of all pages."""

from contextlib import AbstractContextManager
from pathlib import Path

from repro.api.folders import REPORTS
from repro.api.results import Results, read_results
from repro.api.terminal import console, say


def building() -> AbstractContextManager[None]:
    """Held while pages are built: studies that end together build the same ones, and each begins with an empty folder."""
    from repro.tracking.locks import held

    REPORTS.mkdir(parents=True, exist_ok=True)
    return held(REPORTS / "pages.lock", who="builds its pages")


def build_study_page(detail: str, scale: str, root: Path = REPORTS) -> tuple[Path, str, Results]:
    """Build a study's page and print its verdict; returns the file, the verdict and the results."""
    from repro.reports.pages import markup, page

    results = read_results(detail, scale)
    with building():
        path = results.page(root / markup.folder(detail, scale))
    verdict = page.headline(path)
    console.print()
    say(verdict)
    say(f"report: {path}")
    return path, verdict, results


def build_format(detail: str, scale: str, page: Path, form: str) -> None:
    """Write a study in another form beside its built page."""
    from repro.reports.formats import formats

    files = formats.build(read_results(detail, scale).recorded, page, form)
    say(f"{form}: {', '.join(map(str, files))}")


def build_and_publish(detail: str, scale: str) -> None:
    """Build a study's page and the index, and store the page with the study's parent run."""
    from repro.tracking.attach import publish_report

    with building():
        path, verdict, results = build_study_page(detail, scale)
        publish_report(detail, scale, path.parent, verdict, results.summary, results.verdicts["verdict"].to_dict())
        build_index()


def build_index(root: Path = REPORTS, stored: bool = True) -> int:
    """Build the index of all pages; returns 0, the exit code of the verb that ends with it.

    Where nothing is `stored`, it has the studies whose pages are in the folder.
    """
    from repro.cli.source import ROOT, Source
    from repro.reports.pages import index
    from repro.tracking.store import store_uri, usable_store

    registered = Source(ROOT).outline()  # without the registry's functions, which need torch
    with usable_store(), building():
        say(f"index: {index.build(root, store_uri() if stored else '', registered)}")
    return 0


def build_paper_page(root: Path = REPORTS) -> None:
    """Build the page of the paper's figures beside ours."""
    from repro.reports.pages import paper
    from repro.tracking.store import store_uri, usable_store

    with usable_store():
        say(f"\ncomparison with the paper: {paper.build(store_uri(), root / 'paper')}")


def build_atlas_page(scale: str, root: Path = REPORTS) -> None:
    """Build the page on all details at a scale."""
    from repro.reports.pages import atlas, markup
    from repro.tracking.store import store_uri, usable_store

    registered = _registered()
    out = root / markup.folder("atlas", scale)
    with usable_store():
        path = atlas.build(scale, [each["name"] for each in registered], registered, store_uri(), out)
    console.print()
    say(atlas.headline(path))
    say(f"atlas: {path}")


def _registered() -> list[dict]:
    """The registry's details as records for the page on all details."""
    from repro.cli import catalogue

    records = [record for record in map(catalogue.record, catalogue.entries().values()) if record["kind"] == "detail"]
    return [each | {"variants": {v["label"]: v["does"] for v in each["variants"]}} for each in records]

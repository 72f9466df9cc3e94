"""Builds pages from the MLflow store: of a study, on all details at a scale, and the index of all pages."""

from contextlib import AbstractContextManager
from pathlib import Path

from repro.api.folders import REPORTS
from repro.api.results import read_results
from repro.api.terminal import console


def building() -> AbstractContextManager[None]:
    """Held while pages are built: studies that end together build the same ones, and each begins with an empty folder."""
    from repro.tracking.locks import held

    REPORTS.mkdir(parents=True, exist_ok=True)
    return held(REPORTS / "pages.lock", who="builds its pages")


def build_study_page(detail: str, scale: str, root: Path = REPORTS) -> tuple[Path, str]:
    """Build a study's page and print its verdict; returns the file and the verdict."""
    from reports.pages import markup, page

    with building():
        path = read_results(detail, scale).page(root / markup.folder(detail, scale))
    verdict = page.headline(path)
    console.print()
    console.print(verdict, highlight=False)
    console.print(f"report: {path}", highlight=False)
    return path, verdict


def build_and_publish(detail: str, scale: str) -> None:
    """Build a study's page and the index, and store the page with the study's parent run."""
    from repro.tracking.attach import publish_report

    with building():
        path, verdict = build_study_page(detail, scale)
        publish_report(detail, scale, path.parent, verdict)
        build_index()


def build_index(root: Path = REPORTS) -> int:
    """Build the index of all pages; returns 0, the exit code of the verb that ends with it."""
    from reports.pages import index
    from repro.cli.source import ROOT, Source
    from repro.tracking.store import store_uri, usable_store

    registered = Source(ROOT).outline()  # without the registry's functions, which need torch
    with usable_store(), building():
        console.print(f"index: {index.build(root, store_uri(), registered)}", highlight=False)
    return 0


def build_paper_page(root: Path = REPORTS) -> None:
    """Build the page of the paper's figures beside ours."""
    from reports.pages import paper
    from repro.tracking.store import store_uri, usable_store

    with usable_store():
        console.print(f"\ncomparison with the paper: {paper.build(store_uri(), root / 'paper')}", highlight=False)


def build_atlas_page(scale: str, root: Path = REPORTS) -> None:
    """Build the page on all details at a scale."""
    from reports.pages import atlas, markup
    from repro.tracking.store import store_uri, usable_store

    registered = _registered()
    out = root / markup.folder("atlas", scale)
    with usable_store():
        path = atlas.build(scale, [each["name"] for each in registered], registered, store_uri(), out)
    console.print()
    console.print(atlas.headline(path), highlight=False)
    console.print(f"atlas: {path}", highlight=False)


def _registered() -> list[dict]:
    """The registry's details as records for the page on all details."""
    from repro.cli import catalogue

    records = [record for record in map(catalogue.record, catalogue.entries().values()) if record["kind"] == "detail"]
    return [each | {"variants": {v["label"]: v["does"] for v in each["variants"]}} for each in records]

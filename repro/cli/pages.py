"""Builds pages from the MLflow store: of a study, on all details at a scale, and the index of all pages."""

from contextlib import AbstractContextManager
from pathlib import Path

from repro.api.folders import REPORTS
from repro.api.results import Results, read_results
from repro.api.terminal import console, phase, say


def building() -> AbstractContextManager[None]:
    """A lock to build pages under: studies that end together build the same ones, and each begins with an empty folder."""
    from repro.tracking.locks import held

    REPORTS.mkdir(parents=True, exist_ok=True)
    return held(REPORTS / "pages.lock", who="builds its pages")


def build_study_page(detail: str, scale: str, root: Path = REPORTS) -> tuple[Path, str, Results]:
    """Build a study's page and print its verdict; returns the file, the verdict and the results."""
    path, verdict, results = _study_page(detail, scale, root)
    _say_verdict(path, verdict)
    return path, verdict, results


def _study_page(detail: str, scale: str, root: Path = REPORTS) -> tuple[Path, str, Results]:
    """A study's page, built: its file, its verdict and the results."""
    with phase("building the report"):
        from repro.reports.pages import markup, page

        results = read_results(detail, scale)
        with building():
            path = results.page(root / markup.folder(detail, scale))
        return path, page.headline(path), results


def _say_verdict(path: Path, verdict: str, before: str = "") -> None:
    console.print()
    if before:
        say(before)
    say(verdict)
    say(f"report: {path}", whole=True)


def beyond(study, recorded) -> str:
    """A line on the seeds and arms that the store has of a study beyond those asked for; empty where there are none."""
    seeds = [seed for seed in recorded.seeds if seed not in study.seeds]
    arms = [arm for arm in recorded.arms if arm not in study.arms]
    parts = [
        f"{noun}{'s' * (len(found) > 1)} {', '.join(map(str, found))}"
        for noun, found in (("seed", seeds), ("arm", arms))
        if found
    ]
    if not parts:
        return ""
    them = "it is" if len(seeds) + len(arms) == 1 else "they are"
    return f"the store also holds {' and '.join(parts)} of this study; {them} counted"


def build_format(detail: str, scale: str, page: Path, form: str) -> None:
    """Write a study in another form beside its built page."""
    from repro.reports.formats import formats

    files = formats.build(read_results(detail, scale).recorded, page, form)
    say(f"{form}: {', '.join(map(str, files))}")


def build_and_publish(detail: str, scale: str, register: bool = False, asked=None) -> None:
    """Build a study's page and the index, store the page with the study's parent run, and `register` its policies if asked.

    Where the store has more of the study than the one that was `asked` for, the verdict is of more, and a line says so.
    """
    from repro.tracking.attach import publish_report

    with building():
        path, verdict, results = _study_page(detail, scale)
        try:
            words = results.verdicts["verdict"].to_dict()
            with phase("publishing the report to MLflow"):
                publish_report(detail, scale, path.parent, verdict, results.summary, words)
            index = _built_index()
        finally:  # the report is there, whatever became of the store
            _say_verdict(path, verdict, beyond(asked, results.recorded) if asked else "")
        say(f"index: {index}", whole=True)
        if register:
            with phase("registering the policies"):
                registered = results.register()
            say(registered, whole=True)


def build_index(root: Path = REPORTS, stored: bool = True) -> int:
    """Build the index of all pages; returns 0, the exit code of the verb that ends with it.

    Where nothing is `stored`, it has the studies whose pages are in the folder.
    """
    say(f"index: {_built_index(root, stored)}", whole=True)
    return 0


def _built_index(root: Path = REPORTS, stored: bool = True) -> Path:
    with phase("building the index"):
        from repro.cli.source import ROOT, Source
        from repro.reports.pages import index
        from repro.tracking.store import store_uri, usable_store

        registered = Source(ROOT).outline()  # without the registry's functions, which need torch
        with usable_store(), building():
            return index.build(root, store_uri() if stored else "", registered)


def build_paper_page(root: Path = REPORTS) -> None:
    """Build the page of the paper's figures beside ours."""
    with phase("building the comparison with the paper"):
        from repro.reports.pages import paper
        from repro.tracking.store import store_uri, usable_store

        with usable_store():
            built = paper.build(store_uri(), root / "paper")
    say(f"\ncomparison with the paper: {built}", whole=True)


def build_atlas_page(scale: str, root: Path = REPORTS, keep: bool = False) -> None:
    """Build the page on all details at a scale; `keep` as `atlas.build` has it."""
    from repro.reports.pages import atlas, markup
    from repro.tracking.store import store_uri, usable_store

    out = root / markup.folder("atlas", scale)
    with phase("building the atlas"), usable_store():
        path = atlas.build(scale, _registered(), store_uri(), out, keep)
    console.print()
    say(atlas.headline(path))
    say(f"atlas: {path}", whole=True)


def _registered() -> list[dict]:
    """The registry's details as records for the page on all details."""
    from repro.cli import catalogue

    records = [record for record in map(catalogue.record, catalogue.entries().values()) if record["kind"] == "detail"]
    return [each | {"variants": {v["label"]: v["does"] for v in each["variants"]}} for each in records]

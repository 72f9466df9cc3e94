"""The verb `gallery`: pages of chosen studies, from the MLflow store, as small as a repository should keep them."""

import argparse

from repro.api.folders import GALLERY, require_report_folder
from repro.api.terminal import complain, say
from repro.cli.pages import build_atlas_page, build_index, build_paper_page, build_study_page
from repro.cli.parser import positive_integer
from repro.cli.report import atlas_scales
from repro.errors import LISTED, UserError, cut, nearest


def add_gallery(verbs) -> None:
    verb = verbs.add_parser(
        "gallery", help="build pages of chosen studies into reports/gallery, without what is not opened"
    )
    verb.add_argument(
        "studies", nargs="*", metavar="STUDY", help="as its folder is called; without any, those that are there already"
    )
    verb.add_argument("--episodes", type=positive_integer, default=1, metavar="N", help="seeds whose episodes are kept")
    verb.set_defaults(run=_gallery)


def _gallery(arguments: argparse.Namespace) -> int:
    from repro.reports.pages import gallery, index
    from repro.tracking.address import shown, store_uri

    require_report_folder(GALLERY)
    built = {page.parent.name for page in index.study_pages(GALLERY).values()}
    found = _recorded(bool(built) and not arguments.studies)
    requested = arguments.studies or sorted(built & found.keys())
    if unknown := [name for name in requested if name not in found]:
        raise UserError(
            f"the MLflow store {shown(store_uri())} holds no study {cut(unknown[0])}; {nearest(unknown[0], found)}"
        )
    if not requested and not built:
        raise UserError(
            f"name a study; the MLflow store {shown(store_uri())} holds {cut(', '.join(found), LISTED) or 'none'}"
        )
    if requested:
        _build([found[name] for name in requested], list(found.values()))
    if kept := sorted(built - set(requested)):
        complain(f"left as they were: {', '.join(kept)}")
    build_index(GALLERY, stored=bool(found))
    gallery.lead(GALLERY, left=built - found.keys())
    files, size = gallery.trim(GALLERY, arguments.episodes)
    say(f"gallery: {files} files, {size / 1e6:.1f} MB")
    return 0


def _recorded(optional: bool) -> dict[str, tuple[str, str]]:
    """Folder -> (detail, scale) of each study in the store; none where there is no store and the gallery has pages."""
    from repro.reports.pages import markup
    from repro.tracking.store import recorded_studies, store_is_missing

    if optional and store_is_missing():
        return {}
    return {markup.folder(*study): study for study in recorded_studies()}


def _build(requested: list[tuple[str, str]], found: list[tuple[str, str]]) -> None:
    """The pages of the requested studies, the paper's, and each atlas, which keeps its rows of studies in other stores."""
    from repro.reports.pages import entries, markup

    for study in requested:
        build_study_page(*study, GALLERY)
    build_paper_page(GALLERY)
    built = [scale for _, scale in found if (GALLERY / markup.folder("atlas", scale) / entries.ATLAS).is_file()]
    for scale in dict.fromkeys([*built, *atlas_scales(found)]):
        build_atlas_page(scale, GALLERY, keep=True)

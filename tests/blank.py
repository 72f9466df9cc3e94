"""Figures drawn and written as empty pictures: laying them out and writing them takes most of a page's time."""

# What a program begins with that has such figures, and what Python is given in the place of `-m repro`.
BEGINNING = "from tests import blank\nblank.instead(setattr)\n"
COMMAND_LINE = ("-c", f"{BEGINNING}import runpy\nrunpy.run_module('repro', run_name='__main__', alter_sys=True)")
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="72pt" height="72pt" viewBox="0 0 72 72"></svg>\n'


def save(figure, stem, panels=()):
    """In the place of `repro.reports.figures.chart.save`."""
    for name in (stem.name, *panels):
        (stem.parent / f"{name}.svg").write_text(SVG, encoding="utf-8")
        (stem.parent / f"{name}.png").touch()


def instead(setattr):
    """Pages have empty pictures from here on; the caller's way to set an attribute may set it back."""
    from repro.reports.figures import chart, forest

    for module in (chart, forest):
        setattr(module, "save", save)


def without_charts(setattr):
    """A study's pages have no figures from here on."""
    from repro.reports.pages import data, page

    for module in (page, data):
        setattr(module, "CHARTS", ())

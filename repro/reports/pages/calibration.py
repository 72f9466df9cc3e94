"""The page on how often the verdicts are wrong, docs/calibration.md: its figures, its tables, and the words around them.

What it reports is `repro.reports.statistics.simulation` and a real A/A study; it also writes what docs/statistics.md quotes
of it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from repro.errors import UserError
from repro.reports.figures import chart, layout, numbers, style
from repro.reports.pages import markup
from repro.reports.reading import terms
from repro.reports.reading.study import Study
from repro.reports.statistics import sample_size, simulation, student
from repro.reports.statistics.simulation import EFFECTS, RUNS, SHAPES, SHOWN_SIZES

STUDIES = 20_000  # of each shape
RESAMPLED = 1_000  # of those on which a bootstrap and sign flips are run
FAMILIES = 4_000
FOLLOWED = 4_000
BEGIN, END = "<!-- calibration -->", "<!-- /calibration -->"
FAMILY = (
    "shape of a run",
    "n",
    "correction",
    "families with a false word [%]",
    "false words uncorrected, mean",
    "in the worst 5 % of families, at least",
)


# The figures


def draw_differences(data: pd.DataFrame) -> Figure:
    """A panel per metric: the measured differences, sorted, against what a normal distribution would have given."""
    metrics = list(data["metric"].unique())
    figure, panels = layout.grid(len(metrics), columns=4, width=2.7, height=2.6)
    for axes, metric in zip(panels, metrics, strict=True):
        (expected, found), (slope, intercept, _) = stats.probplot(data.loc[data["metric"] == metric, "difference"])
        axes.plot(expected, intercept + slope * expected, color="#888888", linewidth=1, linestyle=(0, (4, 2)))
        axes.plot(expected, found, "o", color=style.PALETTE[1], markersize=3, alpha=0.7, markeredgewidth=0)
        axes.set(title=metric, xlabel="normal quantile")
    panels[0].set_ylabel("difference, again less first")
    return figure


def draw_false_positives(data: pd.DataFrame) -> Figure:
    """A panel per source of differences: how often an interval excludes zero though nothing differs, over n."""
    kinds = list(data["kind"].unique())
    figure, panels = layout.grid(len(kinds), columns=3, width=3.7, height=3.6)
    for axes, kind in zip(panels, kinds, strict=True):
        rows = data[data["kind"] == kind]
        _shares_over_n(axes, rows, tuple(rows["shape"].unique()), apart=0.12)
        axes.axhline(5, color="#1a1a1a", linewidth=1, linestyle=(0, (4, 2)), zorder=0)
        axes.set(title=kind, xlabel="seeds of a study", ylim=(0, None))
        axes.legend(fontsize=7.5, loc="upper left")
        axes.set_ylim(0, 1.45 * axes.get_ylim()[1])
    panels[0].set_ylabel("better or worse, falsely [%]")
    return figure


def draw_power(data: pd.DataFrame) -> Figure:
    """A panel per planted effect: how often it is shown, over n, beside the noncentral t that plans are made with."""
    shapes = tuple(data["shape"].unique())
    figure, panels = layout.grid(len(EFFECTS), columns=3, width=3.7, height=3.2)
    for axes, effect in zip(panels, EFFECTS, strict=True):
        exact = 100 * sample_size.power(np.array(simulation.SIZES), effect)
        axes.plot(simulation.SIZES, exact, color="#bbbbbb", linewidth=6, zorder=0)
        _shares_over_n(axes, data[data["effect"] == effect], shapes, apart=0.0)
        axes.set(title=f"effect: {effect:g} × the spread", xlabel="seeds of a study", ylim=(0, 101))
    panels[0].set_ylabel("shown [%]")
    shown, _ = panels[0].get_legend_handles_labels()
    for axes in panels:
        axes.get_legend().remove()
    handles = [Line2D([], [], color="#bbbbbb", linewidth=6, label="noncentral t"), *shown]
    figure.legend(handles=handles, loc="outside upper left", ncols=5, fontsize=8)
    return figure


def _shares_over_n(axes: Axes, rows: pd.DataFrame, shapes: tuple[str, ...], apart: float) -> None:
    """A line per shape with the exact intervals of its shares [%], `apart` seeds from the next so that none hides."""
    shift = {shape: apart * (place - (len(shapes) - 1) / 2) for place, shape in enumerate(shapes)}
    percent = {name: 100 * rows[name] for name in ("shown", "shown_low", "shown_high")}
    shifted = rows.assign(n=rows["n"] + rows["shape"].map(shift), **percent)
    look = {"hue": "shape", "hue_order": shapes, "palette": style.colours(shapes)}
    look |= {"style": "shape", "style_order": shapes, "dashes": style.dashes(shapes), "markers": style.markers(shapes)}
    sns.lineplot(shifted, x="n", y="shown", **look, markersize=5, linewidth=1, errorbar=None, ax=axes)
    colours = shifted["shape"].map(style.colours(shapes))
    axes.vlines(shifted["n"], shifted["shown_low"], shifted["shown_high"], colors=colours, linewidth=0.8)
    axes.set(ylabel="")


# The page


@dataclass(frozen=True)
class Moves:
    """How a metric differs between the two arms of an A/A study."""

    name: str  # of the metric, without its unit
    label: str  # with it
    differences: pd.Series  # [seed]
    seeds: int  # of the study; some may lack a result


def moves(studies: Sequence[tuple[Study, Sequence[str]]]) -> Iterator[Moves]:
    """The metrics asked of each A/A study that change at all; those of a further study are named with its scale."""
    for place, (study, metrics) in enumerate(studies):
        where = f", at {study.scale}" if place else ""
        for metric, values in simulation.differences(study, metrics).items():
            name = terms.name(metric) + where
            yield Moves(name, name + terms.bracketed(metric), values, len(study.seeds))


def build(studies: Sequence[tuple[Study, Sequence[str]]], looks: Sequence[int], page: Path) -> Path:
    """Writes the page and its figures (`images/calibration_*` beside it) from A/A studies, and gives the page's path.

    Each study comes with the final metrics that are asked of it; `looks` is the schedule of studies that grow. Where a
    statistics.md lies beside the page, its block between the markers is renewed.
    """
    (study, asked), *further = studies
    found = list(moves(studies))
    drawn = {f"measured {each.name}": simulation.measured(each.differences.to_numpy()) for each in found}
    kinds = {"made-up shapes": SHAPES, "drawn from measured differences": drawn}
    simulated = [simulation.simulate(shapes, STUDIES).assign(kind=kind) for kind, shapes in kinds.items()]
    paired = {each.name: each.differences for each in found}
    results = {
        "simulated": pd.concat(simulated, ignore_index=True),
        "real": simulation.real(paired).assign(kind="real A/A studies"),
        "families": simulation.simulate_families(RUNS, FAMILIES),
        "beside": simulation.simulate_beside(SHAPES, RESAMPLED),
        "follow_up": simulation.simulate_follow_up(FOLLOWED),
        "looks": simulation.simulate_looks(SHAPES | drawn, looks, STUDIES),
        "arms": simulation.simulate_looks_of_arms(looks, STUDIES),
    }
    said = template_values(results)
    summary = markup.render("calibration_summary.md.j2", **said)
    values_of_page = {
        "study": study,
        "further": [each for each, _ in further],
        "commits": sorted({commit for each, _ in studies for commit in each.runs["commit"]}),
        "looks": looks,
        "paired": paired,
        "moves": measured_table(found),
        "unmoved": [terms.label(metric) for metric in asked if terms.name(metric) not in paired],
        "figures": save_figures(found, results, page.parent / "images"),
        "summary": summary,
    }
    page.write_text(markup.render("calibration.md.j2", **values_of_page, **said) + "\n", encoding="utf-8")
    renew(page.with_name("statistics.md"), summary)
    return page


def save_figures(found: Sequence[Moves], results: Mapping[str, pd.DataFrame], folder: Path) -> tuple[str, ...]:
    """Writes `calibration_<name>.png`, `.svg` and `.csv` of every figure with data, and gives their names."""
    raw = [each.differences.rename("difference").reset_index().assign(metric=each.label) for each in found]
    simulated = results["simulated"]
    null = pd.concat([simulated[simulated["effect"] == 0], results["real"]], ignore_index=True)
    plots = (
        ("differences", pd.concat(raw) if raw else pd.DataFrame(), draw_differences),
        ("false_positives", null, draw_false_positives),
        ("power", simulated[simulated["effect"] > 0], draw_power),
    )
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [plot for plot in plots if not plot[1].empty]
    for name, data, draw in drawn:
        with style.context():
            chart.save(draw(data), folder / f"calibration_{name}")
        data.to_csv(folder / f"calibration_{name}.csv", index=False)
    return tuple(name for name, *_ in drawn)


def renew(page: Path, block: str) -> None:
    """Puts a block between the markers of a page; UserError where the page has lost them."""
    if not page.is_file():
        return
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"{page} has no block between {BEGIN} and {END}; put both lines back where the result belongs")
    page.write_text(f"{before}{BEGIN}\n{block}\n{END}{after}", encoding="utf-8")


def template_values(results: Mapping[str, pd.DataFrame]) -> dict[str, object]:
    """What the templates say the results with: tables, sizes, and functions from a row to words."""
    simulated = results["simulated"].set_index(["shape", "n", "effect"])
    families = results["families"].set_index(["shape", "n", "correction"])

    def rate(shape: str, n: int, effect: float = 0.0, outcome: str = "shown") -> str:
        return percent(simulated.loc[(shape, n, effect), outcome])

    return {
        "tables": tables(results),
        "sizes": SHOWN_SIZES,
        "studies": f"{STUDIES:,}",
        "families": f"{FAMILIES:,}",
        "resampled": f"{RESAMPLED:,}",
        "followed": f"{FOLLOWED:,}",
        "most": simulation.MOST,
        "grown": percent(results["looks"].groupby("shape")["shown"].max()["normal"]),
        "grown_arms": percent(results["arms"]["shown"].max()),
        "most_arms": simulation.ARMS[-1],
        "follow_up": [percent(ends) for ends in results["follow_up"]["shown"].agg(["min", "max"])],
        "variants": simulation.VARIANTS,
        "far": f"{simulation.FAR:g}",
        "one_in": f"{1 / simulation.HACKED:g}",
        "unseen": lambda n: percent((1 - simulation.HACKED) ** n),
        "rate": rate,
        "covered": lambda shape, n: percent(1 - simulated.loc[(shape, n, 0.0), "shown"]),
        "exact": lambda n, effect: percent(sample_size.power(n, effect)),
        "family": lambda shape, n, correction: percent(families.loc[(shape, n, correction), "shown"]),
        "spread_of_three": [f"{ratio:.1f}" for ratio in np.sqrt(stats.chi2.ppf([1 / 6, 5 / 6], 2) / 2)],
    }


def tables(results: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """The page's tables by name, as Markdown."""
    simulated, found = results["simulated"], results["real"]
    null, sizes = simulated[simulated["effect"] == 0], [f"n = {n}" for n in SHOWN_SIZES]
    real = found.assign(shape="real A/A studies, " + found["shape"])
    return {
        "summary": table(("paired differences", *sizes), by_n(null, ["shape"], shown) + by_n(real, ["shape"], of_few)),
        "real": table(
            ("metric", "n", "studies", "better or worse [%]", "no difference"),
            [(r.shape, r.n, r.studies, bounded(r), percent(r.no_difference)) for r in found.itertuples()],
        ),
        "null": table(("shape", *sizes), by_n(null, ["shape"], lambda row: f"{bounded(row)} {promise(row)}".strip())),
        "power": table(
            ("effect [spreads]", "shape", *sizes), by_n(beside_exact(simulated), ["effect", "shape"], shown)
        ),
        "alike": table(
            ("shape", "true effect [spreads]", "X [spreads]", *sizes),
            by_n(
                simulated.assign(x=simulated["effect"].replace(0.0, 1.0)),
                ["shape", "effect", "x"],
                lambda row: percent(row.no_difference),
            ),
        ),
        "families": table(FAMILY, [family_row(row) for row in results["families"].itertuples()]),
        "follow_up": table(
            ("first n", "X [spreads]", "better or worse at first", "after the follow-up [%]", "still undecided"),
            [
                (r.n, f"{r.x:g}", percent(r.first_look), bounded(r), percent(r.undecided))
                for r in results["follow_up"].itertuples()
            ],
        ),
        "looks": table(
            ("shape", "X [spreads]", "true effect [spreads]", "false words [%]", "decided", "seeds, mean"),
            [
                (r.shape, f"{r.x:g}", f"{r.effect:g}", bounded(r), percent(r.decided), f"{r.seeds:.1f}")
                for r in results["looks"].itertuples()
            ],
        ),
        "arms": table(
            (
                "arms",
                "X [spreads]",
                "true effect [spreads]",
                "a false word in any arm [%]",
                "arms decided",
                "seeds, mean",
            ),
            [
                (r.arms, f"{r.x:g}", f"{r.effect:g}", bounded(r), percent(r.decided), f"{r.seeds:.1f}")
                for r in results["arms"].itertuples()
            ],
        ),
        "beside": table(
            ("shape", "n", "sign flips", "inter-quartile mean", "P(improvement)"),
            [
                (r.shape, r.n, percent(r.sign_flip), percent(r.iqm_misses), percent(r.p_misses))
                for r in results["beside"].itertuples()
            ],
        ),
    }


def by_n(rows: pd.DataFrame, keys: list[str], cell: Callable[..., str]) -> list[tuple]:
    """A table's rows: what a group of rows has in common, and a cell for each n that tables show."""
    groups = rows[rows["n"].isin(SHOWN_SIZES)].groupby(keys, sort=False)
    return [(*map(plain, key), *map(cell, group.itertuples())) for key, group in groups]


def beside_exact(simulated: pd.DataFrame) -> pd.DataFrame:
    """The planted effects, by effect, each headed by the power that theory gives."""
    exact = pd.DataFrame(
        [("**noncentral t**", n, effect, sample_size.power(n, effect)) for effect in EFFECTS for n in SHOWN_SIZES],
        columns=["shape", "n", "effect", "shown"],
    )
    planted = pd.concat([exact, simulated[simulated["effect"] > 0]])
    return planted.sort_values("effect", kind="stable")


def family_row(row) -> tuple:
    """A row of the table of families."""
    return row.shape, row.n, row.correction, bounded(row), f"{row.false_words:.1f}", f"{row.worst:g}"


def measured_table(found: Sequence[Moves]) -> str:
    """What the real differences are like: a row per metric that moves."""
    rows = []
    for each in found:
        values = each.differences
        mean = f"{numbers.signed(values.mean())} ({numbers.span(*student.t_interval(values))})"
        far = numbers.number(values.abs().max() / values.std())
        seeds = f"{len(values)} of {each.seeds}"
        rows.append((each.label, seeds, mean, numbers.number(values.std()), far))
    return table(
        ("metric", "seeds with both arms", "mean difference (95 % interval)", "spread", "largest, in spreads"), rows
    )


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows))


def plain(key: object) -> str:
    """A name as it is, a number without trailing zeros."""
    return f"{key:g}" if isinstance(key, float) else str(key)


def shown(row) -> str:
    """A share of many studies, in percent."""
    return percent(row.shown)


def bounded(row) -> str:
    """A share with its exact interval, in percent; a dash where there is none."""
    if not np.isfinite(row.shown):
        return numbers.DASH
    return f"{100 * row.shown:.1f} ({100 * row.shown_low:.1f} to {100 * row.shown_high:.1f})"


def of_few(row) -> str:
    """A share of few studies: how many of how many, and its exact interval."""
    return f"{round(row.shown * row.studies)} of {row.studies}: {bounded(row)}" if row.studies else numbers.DASH


def percent(value: float) -> str:
    """A share in percent; a dash where there is none."""
    return f"{100 * value:.1f} %" if np.isfinite(value) else numbers.DASH


def promise(row) -> str:
    """An arrow where the exact interval of a false-positive rate lies above or below the 5 % that are promised."""
    if row.shown_low > simulation.ERROR:
        return "\N{UPWARDS ARROW}"
    return "\N{DOWNWARDS ARROW}" if row.shown_high < simulation.ERROR else ""

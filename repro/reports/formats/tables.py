"""A study as tidy CSV files, a row for each arm, each final value and each point of a curve; headers name the units."""

from pathlib import Path

import pandas as pd

from repro.reports.figures import chart
from repro.reports.reading import terms
from repro.reports.reading.study import Study
from repro.reports.statistics.findings import Findings

STEP = "step [episodes of PPO, else optimizer steps]"
VALUE = "value [unit]"  # the unit is a column: metrics differ in it


def write(study: Study, findings: Findings, folder: Path) -> list[Path]:
    """Writes `verdicts.csv`, `finals.csv` and `curves.csv` into a folder; the files."""
    frames = {"verdicts": verdicts(study, findings), "finals": finals(study), "curves": curves(study)}
    for name, frame in frames.items():
        chart.write_csv(frame, folder / f"{name}.csv")
    return [folder / f"{name}.csv" for name in frames]


def verdicts(study: Study, findings: Findings) -> pd.DataFrame:
    """One row per arm but the reference: its difference, interval and verdict on the primary metric, and the ceiling."""
    unit = terms.bracketed(study.primary)
    rows = findings.verdicts
    above = findings.ceiling.set_index("arm").reindex(rows["arm"]).reset_index(drop=True)
    beside = {
        f"mean less ceiling{unit}": above["mean"],
        f"less ceiling low{unit}": above["low"],
        f"less ceiling high{unit}": above["high"],
        "of the way to the ceiling [share]": above["share"],
    }
    return pd.DataFrame(
        {
            "detail": study.detail,
            "scale": study.scale,
            "metric": study.primary,
            "reference": study.reference,
            "arm": rows["arm"],
            "n [paired seeds]": rows["n"],
            f"mean difference{unit}": rows["mean"],
            f"interval low{unit}": rows["low"],
            f"interval high{unit}": rows["high"],
            f"smallest effect of interest{unit}": study.smallest_effect,
            "p": rows["p"],
            "verdict": rows["verdict"],
            **(beside if len(findings.ceiling) else {}),
        }
    )


def finals(study: Study) -> pd.DataFrame:
    """One row per arm, seed and final value that there is."""
    return _with_unit(study.finals[["arm", "seed", "metric", "value"]].dropna(subset="value"))


def curves(study: Study) -> pd.DataFrame:
    """One row per arm, seed, metric and step."""
    return _with_unit(study.curves[["arm", "seed", "metric", "step", "value"]]).rename(columns={"step": STEP})


def _with_unit(frame: pd.DataFrame) -> pd.DataFrame:
    """The values with the unit of each in a column; empty where a metric has none."""
    units = {metric: terms.unit(metric) for metric in frame["metric"].unique()}
    return frame.assign(unit=frame["metric"].map(units)).rename(columns={"value": VALUE})

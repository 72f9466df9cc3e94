"""Formats numbers for figures and pages."""

import math

from repro.reports.statistics.student import ROUNDING

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"


def number(value: float, sign: str = "") -> str:
    """A number at a readable precision with a true minus sign; a dash for NaN."""
    if value is None or math.isnan(value):
        return DASH
    size = abs(value)
    if size < ROUNDING:
        value = 0.0
    elif size < 0.0001 or size >= 1e9:
        return f"{value:{sign}.1e}".replace("-", MINUS)
    # By the number that is shown, so that no number is spelled in two ways; 1 has the digits of a share.
    digits = 4 if ROUNDING < round(size, 4) < 0.001 else 3 if round(size, 2) <= 1 else 2 if round(size, 2) < 100 else 0
    return f"{value:{sign},.{digits}f}".replace("-", MINUS)


def signed(value: float) -> str:
    """A difference: as `number`, with its sign."""
    return number(value, "+")


def difference(mean: float, low: float, high: float) -> str:
    """A mean difference beside its interval; below 0.0005 and a hundredth of the interval's width it is a signed zero."""
    return f"{mean:+.3f}".replace("-", MINUS) if 100 * abs(mean) < min(high - low, 0.05) else signed(mean)


def span(low: float, high: float) -> str:
    """An interval in words; "not defined" where it is NaN."""
    return "not defined" if math.isnan(low) else f"{signed(low)} to {signed(high)}"


def count(n: int, noun: str) -> str:
    """A number of things, in the singular for one."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"

"""The argument parser, with one-line errors, and the types of options."""

import argparse
import math
from collections.abc import Sequence
from typing import NoReturn

from repro.errors import UserError


class Parser(argparse.ArgumentParser):
    """A parser whose errors are UserErrors of one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `python -m repro --help`")


def pairs_of(option: str, words: Sequence[str], form: str) -> dict[str, str]:
    """NAME=VALUE words as a dict; UserError where a word has no value (with the right `form`) or a name comes twice."""
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"{option} {word!r} has no value; write {form}")
        if name in pairs:
            raise UserError(f"{option} {name} is given twice, as {pairs[name]} and {value}; give it once")
        pairs[name] = value
    return pairs


def positive_integer(word: str) -> int:
    """Type of an option: an integer of at least 1."""
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word} is not a whole number above 0")
    return int(word)


def price(word: str) -> float:
    """Type of an option: a finite number of at least 0."""
    try:
        amount = float(word)
    except ValueError:
        amount = math.nan
    if not 0 <= amount < math.inf:
        raise argparse.ArgumentTypeError(f"{word} is not a price: a number that is 0 or more, and finite")
    return amount

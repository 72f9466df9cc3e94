"""The argument parser with its one-line errors, and the types that its options have."""

import argparse
import math
from collections.abc import Sequence
from typing import NoReturn

from repro.errors import UserError


class Parser(argparse.ArgumentParser):
    """Argument errors in one line, as all other errors are."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `python -m repro --help`")


def pairs_of(option: str, words: Sequence[str], form: str) -> dict[str, str]:
    """What NAME=VALUE words say; UserError, with the form that is wanted, where one says nothing or a name comes twice."""
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
    """The type of an option that counts something."""
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word} is not a whole number above 0")
    return int(word)


def price(word: str) -> float:
    """The type of an option that is a price."""
    try:
        amount = float(word)
    except ValueError:
        amount = math.nan
    if not 0 <= amount < math.inf:
        raise argparse.ArgumentTypeError(f"{word} is not a price: a number that is 0 or more, and finite")
    return amount

"""The argument parser, with one-line errors, and the types of options."""

import argparse
import math
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from repro.errors import UserError, cut, quoted

MESSAGE = 140  # characters of argparse's own sentence, which repeats what was typed
HIGHEST = 1_000_000_000  # of a number of posts, steps or tokens


class Parser(argparse.ArgumentParser):
    """A parser whose errors are UserErrors of one line, and which refuses words that say nothing."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        words = list(sys.argv[1:] if args is None else args)
        for place, word in enumerate(words):
            if not word.strip():
                before = words[place - 1] if place else ""
                what = f"{cut(before)} has a value that is empty" if before.startswith("--") else "a word is empty"
                raise UserError(f"{what}; say what is meant, or leave it out")
        return super().parse_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{cut(message, MESSAGE)}; see `{self.prog} --help`")


def pairs_of(option: str, words: Sequence[str], form: str) -> dict[str, str]:
    """NAME=VALUE words as a dict; UserError where a word has no value (with the right `form`) or a name comes twice."""
    pairs: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"{option} {quoted(word)} has no value; write {form}")
        if name in pairs:
            raise UserError(
                f"{option} {cut(name)} is given twice, as {cut(pairs[name])} and {cut(value)}; give it once"
            )
        pairs[name] = value
    return pairs


def positive_integer(word: str) -> int:
    """Type of an option: an integer of at least 1."""
    return _whole_number(word, 1, HIGHEST, "a whole number above 0")


def episode_number(word: str) -> int:
    """Type of an option: an episode's number in training."""
    return _whole_number(word, 0, HIGHEST, "the number of an episode: 0 or more")


def port(word: str) -> int:
    """Type of an option: a port that a server may listen at."""
    return _whole_number(word, 1, 65_535, "a port: a whole number from 1 to 65535")


def price(word: str) -> float:
    """Type of an option: a finite number of at least 0."""
    return _amount(word, "a price: a number that is 0 or more, and finite")


def temperature(word: str) -> float:
    """Type of an option: a finite number of at least 0."""
    return _amount(word, "a temperature: a number that is 0 or more, and finite")


def _whole_number(word: str, least: int, most: int, what: str) -> int:
    plain = word.isascii() and word.isdigit() and len(word) <= len(str(most))
    if not plain or not least <= int(word) <= most:
        raise argparse.ArgumentTypeError(f"{cut(word)} is not {what}")
    return int(word)


def _amount(word: str, what: str) -> float:
    try:
        amount = float(word)
    except ValueError:
        amount = math.nan
    if not 0 <= amount < math.inf:
        raise argparse.ArgumentTypeError(f"{cut(word)} is not {what}")
    return amount

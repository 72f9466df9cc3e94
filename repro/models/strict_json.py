"""JSON as its standard has it, from files that a person gives: Python's reader takes more than that, and overflows."""

import json
import math
from typing import Any, NoReturn

BYTE_ORDER = (b"\xff\xfe", b"\xfe\xff")  # how a file in UTF-16 begins


def parse(content: bytes) -> Any:
    """The value of a text in UTF-8; ValueError, with a reason in words, for everything that is not strictly JSON."""
    if content.startswith(BYTE_ORDER) or b"\x00" in content:
        raise ValueError("it is binary, or UTF-16; UTF-8 is needed")
    try:
        return _DECODER.decode(content.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        # Without the error's own text, which calls every line of a file "line 1".
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise ValueError(f"{error.msg} at {line}column {error.colno}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


def _finite(word: str) -> float:
    number = float(word)
    if math.isinf(number):
        _no_number(word)
    return number


_DECODER = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite)

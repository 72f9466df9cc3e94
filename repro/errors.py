"""The error for people, and how what they gave, or what a library said, stands in its message.

The command line prints the message as one line and exits with code 2.
"""

import re

LONGEST = 40  # characters of a person's word that a message repeats
SENTENCE = 90  # characters of a library's message that ours repeats
# What a terminal obeys instead of showing it, or cannot encode: control characters, changes of direction, half surrogates.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class UserError(Exception):
    """The input is wrong and a person can correct it. The message says what is wrong and what would be right.

    A message is a line, and further ones are indented: any other line break is part of what it repeats, and is escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(re.sub(r"\n(?!  )", r"\\n", printable(message)))


def printable(text: object) -> str:
    """The text with everything escaped that a terminal would obey, or could not encode; line breaks and tabs stay."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def cut(text: str, most: int = LONGEST) -> str:
    """A text; of a long one the beginning."""
    return text if len(text) <= most else f"{text[:most]}..."


def quoted(given: object) -> str:
    """What a person gave, in quotes; of something long the beginning."""
    text = str(given)
    return repr(text) if len(text) <= LONGEST else f"{text[:LONGEST]!r}..."


def reason(error: BaseException) -> str:
    """Why something failed, in the words of the library: one line, cut where it is long; its kind where it says nothing."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    said = error.strerror if isinstance(error, OSError) else ""
    return cut(said or next(iter(str(error).strip().splitlines()), "") or type(error).__name__, SENTENCE)

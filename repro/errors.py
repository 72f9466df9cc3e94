"""The error for people, how what they gave or a library said stands in its message, and which errors are of the machine.

The command line prints a UserError's message as one line and exits with code 2.
"""

import difflib
import errno
import re
from collections.abc import Iterable, Mapping, Sequence

LONGEST = 40  # characters of a person's word that a message repeats
LISTED = 100  # characters of known names that an error lists; of more it lists FEW
FEW = 3
SENTENCE = 90  # characters of a library's message that ours repeats
# What a terminal obeys instead of showing it, or cannot encode: control characters, changes of direction, half surrogates.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# A full disk or quota, a file system that fails or refuses, something in a file's place, too few handles, too little memory.
_OF_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EIO, errno.EROFS, errno.ESTALE, errno.EACCES, errno.EPERM),
    *(errno.EEXIST, errno.EISDIR, errno.ENOTDIR),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
}
# What libraries with errors of their own say of the same: torch's allocators and writer, and safetensors.
_PHRASES = (
    "no space left on device",
    "storagefull",
    "file too large",
    "quota exceeded",
    "allocate memory",
    "out of memory",
)


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


def few(names: Sequence[object], most: int = FEW) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def nearest(word: str, known: Iterable[str], where: str = "") -> str:
    """For an error message: the known name most similar to a mistyped one, then all known names, or of many the nearest.

    `where` says where all of many are listed, as "make details lists all".
    """
    names = list(known)
    close = difflib.get_close_matches(word[:LISTED], names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    if len(listed := ", ".join(names)) <= LISTED:
        return f"{hint}known: {listed or 'none'}"
    alike = difflib.get_close_matches(word[:LISTED], names, n=FEW, cutoff=0)
    return f"{hint}known: {', '.join(alike)} and {len(names) - len(alike)} more{where and f'; {where}'}"


def not_recorded(name: str, detail: str, known: Mapping[str, tuple[str, str]]) -> str:
    """For an error message: at which scales a detail's study is recorded, or else which studies are.

    `known` is name -> (detail, scale).
    """
    missing = f"there is no recorded study {name}"
    scales = sorted(scale for recorded, scale in known.values() if recorded == detail)
    if not scales:
        return f"{missing}; {nearest(name, known, 'make ui shows all')}"
    plain = [scale for scale in scales if "=" not in scale]
    words = (
        f"--scale {plain[0]} (with make: SCALE={plain[0]})" if plain else "the --scale and --set that it was run with"
    )
    return f"{missing}; {detail} is recorded at scale {cut(', '.join(scales), SENTENCE)}: add {words}"


def reason(error: BaseException) -> str:
    """Why something failed, in the words of the library: one line, cut where it is long; its kind where it says nothing."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    said = error.strerror if isinstance(error, OSError) else ""
    return cut(said or next(iter(str(error).strip().splitlines()), "") or type(error).__name__, SENTENCE)


def is_of_machine(error: BaseException) -> bool:
    """Whether an error comes from the machine, such as a full disk or too little memory, and not from a fault in the code."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _OF_MACHINE):
        return True
    return any(phrase in str(error).lower() for phrase in _PHRASES)

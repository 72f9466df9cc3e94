"""Whether a path that a person gives can be what it is given for, found before anything large is read.

A folder of a network has a config.json and weights whose headers say that they are whole, or a GGUF file; a tokenizer's has
a file that one can be read from; data is a file, or a folder of files. What the files say is checked where they are read.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import Any

from repro.errors import UserError, few, reason
from repro.models import strict_json

MOST_FILES = 10_000  # in a folder of weights or rows: whoever gives a whole disk does not mean it
LONGEST_HEADER = 100_000_000  # bytes, as the safetensors library has it
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "*.gguf")  # in order of preference
NETWORKS = ("config.json", "*.gguf")
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")  # in order of preference


def check(field: str, path: Path) -> None:
    """UserError where the path of a field of Scale does not exist, or does not hold what the field names."""
    if not os.path.exists(path):
        broken = " (it is a broken link)" * os.path.islink(path)
        raise UserError(f"{field} {str(path)!r} does not exist{broken}; give the path of a file or folder that does")
    if not (path.is_file() or path.is_dir()):
        raise UserError(f"{field} {str(path)!r} is neither a file nor a folder; give the path of one")
    if path.is_dir():
        _check_size(field, path)
    if field in ("model", "annotator") or field.endswith("_from"):
        check_network(field, path)
    elif field == "tokenizer" and path.is_dir() and not _has(path, TOKENIZERS):
        raise UserError(f"{field} {str(path)!r} holds no tokenizer; a folder with tokenizer.json is needed")


def check_network(field: str, path: Path) -> None:
    """UserError where a file or folder holds no network, or one that is cut or damaged; no weights are read."""
    if path.is_file():
        if field != "model" or path.suffix != ".gguf":
            raise UserError(f"{field} {str(path)!r} is a file; the folder with config.json and the weights is needed")
        return
    if not _has(path, NETWORKS):
        raise UserError(f"{field} {str(path)!r} holds no network; a folder with config.json and weights is needed")
    if os.path.lexists(path / "config.json"):
        read_config(path)
        weights = [each for each in sorted(path.iterdir()) if _is(each.name, WEIGHTS)]
        if not weights:
            raise UserError(f"{field} {str(path)!r} holds no weights; {' or '.join(WEIGHTS)} is needed")
        for file in weights:
            check_weights(file)


def read_config(folder: Path) -> dict[str, Any]:
    """A network's config.json; UserError where it is no JSON object."""
    file = folder / "config.json"
    try:
        config = strict_json.parse(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({reason(error)}); a network's configuration is needed") from None
    if not isinstance(config, dict):
        raise UserError(f"{file}: it is no JSON object; a network's configuration is needed")
    return config


def check_weights(file: Path) -> None:
    """UserError where a file of safetensors is cut or damaged, as far as its header tells; others are left to their reader."""
    if file.suffix != ".safetensors":
        return
    try:
        _check_header(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: the weights are cut or damaged ({reason(error)}); copy the file again") from None


def _check_header(file: Path) -> None:
    """ValueError unless the file is its header's length in 8 bytes, the header, and as many bytes as the header tells."""
    size = file.stat().st_size
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        if size < 8 or length > min(size - 8, LONGEST_HEADER):
            raise ValueError(f"of {size} bytes, which do not hold its header")
        header = strict_json.parse(content.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    expected = max((_end_of(name, entry) for name, entry in header.items() if name != "__metadata__"), default=0)
    if 8 + length + expected != size:
        raise ValueError(f"of {size} bytes; its header tells of {8 + length + expected}")


def _end_of(name: str, entry: Any) -> int:
    """Where a tensor's bytes end, after the header."""
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not (
        isinstance(offsets, list) and len(offsets) == 2 and all(type(each) is int and each >= 0 for each in offsets)
    ):
        raise ValueError(f"its header does not say where {name[:40]!r} is")
    return offsets[1]


def require_same(folder: Path, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """UserError where the tensors found have not the names and shapes of those that are expected."""
    wrong = {
        "missing": expected.keys() - found.keys(),
        "unexpected": found.keys() - expected.keys(),
        "of another shape": {n for n in expected.keys() & found.keys() if expected[n].shape != found[n].shape},
    }
    problems = [f"{what}: {few(sorted(names), 2)}" for what, names in wrong.items() if names]
    if problems:
        raise UserError(
            f"{folder}: not the weights of its configuration ({'; '.join(problems)}); give a whole checkpoint"
        )


def _check_size(field: str, folder: Path) -> None:
    if len(list(islice(_files(folder), MOST_FILES + 1))) > MOST_FILES:
        raise UserError(
            f"{field} {str(folder)!r} holds more than {MOST_FILES:,} files; give the folder of nothing but what is needed"
        )


def _files(folder: Path) -> Iterator[str]:
    return (name for _, folders, names in os.walk(folder) for name in (*folders, *names))


def _has(folder: Path, patterns: Iterable[str]) -> bool:
    return any(_is(name, patterns) for name in os.listdir(folder))


def _is(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)

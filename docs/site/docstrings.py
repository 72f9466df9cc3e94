"""Docstrings are plain text that is read in an editor: what reStructuredText is to make of theirs, and of fields' comments.

An equation is a paragraph of one line without a full stop. Names in `code` are links where they name something. A record lists
its fields, each with the comment behind it.
"""

import ast
import inspect
import re
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import is_dataclass
from io import StringIO

ROW = re.compile(r"^\|(.*)\|$")
ARGUMENT = re.compile(r"^(\w+): ", re.MULTILINE)
LABEL = re.compile(r"(?:^|(?<=\. ))(Source|Departure): ", re.MULTILINE)
CODE = re.compile(r"(`[^`]+`)")
MARKUP = re.compile(r"(?<!\\)([*|\\]|_(?!\w))")  # what reStructuredText would take for markup, outside of code


def restructured(docstring: str) -> str:
    """A docstring as reStructuredText."""
    first, *paragraphs = re.split(r"\n\n+(?=\S)", docstring.strip())
    return "\n\n".join([_escaped(first), *map(_paragraph, paragraphs)])


def _paragraph(text: str) -> str:
    lines = text.splitlines()
    if lines[0] == "Args:":
        return ARGUMENT.sub(r":param \1: ", _escaped(textwrap.dedent("\n".join(lines[1:]))))
    if all(map(ROW.match, lines)):
        return _table([line.strip("| ").split(" | ") for line in lines if set(line) - set("|- ")])
    if len(lines) == 1 and not text.endswith((".", ":")):
        return f".. code-block:: none\n   :class: equation\n\n   {text}"
    return LABEL.sub(r"**\1:** ", _escaped(text))


def _table(rows: list[list[str]]) -> str:
    cells = (f"   {'  -' if i else '* -'} {_escaped(cell)}" for row in rows for i, cell in enumerate(row))
    return "\n".join([".. list-table::", "   :header-rows: 1", "", *cells])


def _escaped(text: str) -> str:
    parts = CODE.split(text)
    return "".join(part if i % 2 else MARKUP.sub(r"\\\1", part) for i, part in enumerate(parts))


def fields(record: type) -> Iterator[str]:
    """A line for each field of a dataclass or named tuple: its name, type and default, and the comment behind it."""
    source = textwrap.dedent(inspect.getsource(record))
    tokens = tokenize.generate_tokens(StringIO(source).readline)
    comments = {each.start[0]: each.string.lstrip("# ") for each in tokens if each.type == tokenize.COMMENT}
    for each in ast.parse(source).body[0].body:
        if isinstance(each, ast.AnnAssign):
            behind = [comments[line] for line in range(each.lineno, each.end_lineno + 1) if line in comments]
            yield " – ".join([f"* ``{ast.unparse(each)}``", *map(_escaped, behind)])


def _is_record(found) -> bool:
    return is_dataclass(found) or hasattr(found, "_fields")


def _on_docstring(app, what: str, name: str, found, options, lines: list[str]) -> None:
    lines[:] = restructured("\n".join(lines)).splitlines()
    if what == "class" and _is_record(found):
        lines += ["", *fields(found), ""]


def _on_signature(app, what: str, name: str, found, options, signature: str, result: str):
    return ("", "") if what == "class" and _is_record(found) else None


def _on_member(app, what: str, name: str, found, skip: bool, options) -> bool | None:
    """A field of a named tuple is in the list already."""
    return True if type(found).__name__ == "_tuplegetter" else None


def setup(app) -> None:
    app.connect("autodoc-process-docstring", _on_docstring)
    app.connect("autodoc-process-signature", _on_signature)
    app.connect("autodoc-skip-member", _on_member)

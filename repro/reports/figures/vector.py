"""Drawings as small SVG: what matplotlib writes, to a hundredth of a point and without what nothing refers to.

A drawing is looked at as a file and inside a page, so its bytes count twice. Kept are shapes, colours, clips and glyphs.
Gone are metadata, ids without a reference, groups that say nothing and spaces; styles that repeat become classes, and
coordinates are relative to the point before.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

SVG, HREF = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
POINTS = {"M": 1, "L": 1, "Q": 2, "C": 3}  # command of a path -> the points that it takes
TOKEN = re.compile(r"[A-Za-z]|-?[\d.]+(?:e-?\d+)?")
NUMBER = re.compile(r"-?\d+\.\d+")
REFERENCE = re.compile(r"(?<=url\()#([\w.-]+)")  # in a style or an attribute; an address of its own is a whole href
SHIFT = re.compile(r"translate\((-?[\d.]+) (-?[\d.]+)\)")
GLYPH = "scale(0.015625)"  # of a glyph's outline: 6,400 units are an em, far more than any screen shows
EM, POINT = 10, 100  # steps of a hundredth of an em, which a glyph is drawn in, and of a point
DIGITS = "abcdefghijklmnopqrstuvwxyz"
ATTRIBUTES = {"x", "y", "width", "height", "viewBox"}  # whose numbers are rounded as those of paths are


def compact(svg: str) -> str:
    """The same drawing in fewer bytes; once more changes nothing."""
    root = ElementTree.fromstring(svg)
    _flatten(root)
    for part in root.iter():
        _shorten(part)
    _rename(root)
    _classify(root)
    return _text(root) + "\n"


def _flatten(node: Element) -> None:
    """Takes out metadata, ids without a reference, groups that only hold others, and what is empty then."""
    used = {name for part in node.iter() for name in references(part)}
    for part in node.iter():
        if part.get("id") not in used:
            part.attrib.pop("id", None)
    _unwrap(node)


def _unwrap(node: Element) -> None:
    children: list[Element] = []
    for child in node:
        _unwrap(child)
        if child.tag == f"{SVG}metadata" or (child.tag in (f"{SVG}g", f"{SVG}defs") and not len(child)):
            continue
        children += list(child) if child.tag == f"{SVG}g" and not child.attrib else [child]
    node[:] = children


def references(part: Element) -> Iterator[str]:
    """The ids that an element names, the classes of a style sheet included."""
    yield from REFERENCE.findall(part.text or "")
    for name, value in part.attrib.items():
        yield from [value[1:]] if name in (HREF, "href") else REFERENCE.findall(value)


def _shorten(part: Element) -> None:
    """Rounds an element's numbers and spells its attributes briefly."""
    attributes = part.attrib
    if HREF in attributes:
        attributes["href"] = attributes.pop(HREF)
    if "d" in attributes:
        is_glyph = attributes.get("transform") == GLYPH
        attributes["d"] = path(attributes["d"], 1 / 64 if is_glyph else 1.0, EM if is_glyph else POINT)
        if is_glyph:
            del attributes["transform"]
    shift = SHIFT.fullmatch(attributes.get("transform", ""))
    if shift and part.tag == f"{SVG}use" and not {"x", "y"} & attributes.keys():
        del attributes["transform"]
        attributes |= {name: value for name, value in zip("xy", shift.groups(), strict=True) if float(value)}
    if "transform" in attributes:
        attributes["transform"] = SHIFT.sub(lambda each: NUMBER.sub(_rounded, each[0]), attributes["transform"])
    for name in ATTRIBUTES & attributes.keys():
        attributes[name] = NUMBER.sub(_rounded, attributes[name])
    if "style" in attributes:
        attributes["style"] = _style(attributes["style"])


def _style(text: str) -> str:
    """Declarations without spaces, four digits to a number and three to a colour that has no more."""
    text = re.sub(r"\s*([:;,])\s*", r"\1", text.strip().rstrip(";"))
    text = NUMBER.sub(lambda each: f"{float(each[0]):.4g}", text)
    return re.sub(r"#(\w)\1(\w)\2(\w)\3\b", r"#\1\2\3", text)


@lru_cache(maxsize=4096)  # a panel has the paths of its whole again, and every drawing the same glyphs
def path(d: str, factor: float, steps: int) -> str:
    """A path of M, L, Q, C and z, in steps of one over `steps`, each point relative to where the command began.

    A path that is relative already stays as it is.
    """
    if d.startswith("m"):
        return d
    out: list[str] = []
    tokens, at, start, last, place = TOKEN.findall(d), (0, 0), (0, 0), "", 0
    while place < len(tokens):
        command, place = tokens[place], place + 1
        if command in "zZ":
            out, at, last = [*out, "z"], start, "z"
            continue
        size = 2 * POINTS[command]
        while place < len(tokens) and not tokens[place].isalpha():
            whole = [round(float(word) * factor * steps) for word in tokens[place : place + size]]
            place += size
            name, relative = _relative(command, whole, at)
            # A second pair after `m` would be a line: right for L, and M comes once.
            out.append(_joined(relative, steps) if name == last != "m" else name + _joined(relative, steps))
            at, last = (whole[-2], whole[-1]), name
            start = at if command == "M" else start
    return _spaced(out)


def _relative(command: str, whole: list[int], at: tuple[int, int]) -> tuple[str, list[int]]:
    """A command's relative form and its numbers; a line along an axis has one of them."""
    relative = [value - at[i % 2] for i, value in enumerate(whole)]
    if command == "L" and relative[1] == 0:
        return "h", relative[:1]
    if command == "L" and relative[0] == 0:
        return "v", relative[1:]
    return command.lower(), relative


def _joined(values: list[int], steps: int) -> str:
    """Numbers one after the other, with a space only where they would run together."""
    return _spaced([_number(value / steps) for value in values])


def _spaced(words: list[str]) -> str:
    text = "".join(
        " " + word if i and word[0] not in "-" and not word[0].isalpha() else word for i, word in enumerate(words)
    )
    return re.sub(r"(?<=[a-z]) ", "", text)


def _number(value: float) -> str:
    """A number of two decimals at most, without what says nothing."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else re.sub(r"^(-?)0\.", r"\1.", text)


def _rounded(found: re.Match) -> str:
    return _number(float(found[0]))


def _rename(root: Element) -> None:
    """Ids of a letter or two, in the order in which they stand."""
    stood = [part for part in root.iter() if "id" in part.attrib]
    names = {part.get("id", ""): _letters(place) for place, part in enumerate(stood)}
    for part in root.iter():
        part.text = part.text and REFERENCE.sub(lambda each: f"#{names[each[1]]}", part.text)
        for name, value in part.attrib.items():
            if name == "id":
                part.set(name, names[value])
            elif name == "href" and value.startswith("#"):
                part.set(name, f"#{names[value[1:]]}")
            else:
                part.set(name, REFERENCE.sub(lambda each: f"#{names[each[1]]}", value))


def _letters(place: int) -> str:
    """0, 1, ... as a, b, ..., z, aa, ab, ..."""
    return (_letters(place // len(DIGITS) - 1) if place >= len(DIGITS) else "") + DIGITS[place % len(DIGITS)]


def _classify(root: Element) -> None:
    """Styles that several elements have, as classes of the drawing's style sheet."""
    sheet = root.find(f".//{SVG}style")
    often = [style for style, n in Counter(part.get("style") for part in root.iter()).items() if style and n > 1]
    if sheet is None or not often:
        return
    classes = {style: _letters(place) for place, style in enumerate(often)}
    rules = re.sub(r"\s*([:;,{}])\s*", r"\1", sheet.text or "")
    sheet.text = rules + "".join(f".{name}{{{style}}}" for style, name in classes.items())
    for part in root.iter():
        if part.get("style") in classes:
            part.set("class", classes[part.attrib.pop("style")])


def _text(root: Element) -> str:
    """The drawing as a document of its own."""
    ElementTree.register_namespace("", SVG[1:-1])
    for part in root.iter():
        part.tail = None
        part.text = part.text if (part.text or "").strip() else None
    text = ElementTree.tostring(root, encoding="unicode").replace(" />", "/>")
    return text if "'" in text else text.replace('"', "'")  # a page has it between double quotes

"""Cuts a panel out of a drawing: its own group and the legend, with whatever of the whole they refer to."""

import copy
from collections.abc import Iterable
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from repro.reports.figures.sheet import CELL, LEGEND, Box
from repro.reports.figures.vector import SVG, references


class Drawing:
    """A whole drawing as matplotlib writes it, read once for all of its panels."""

    def __init__(self, svg: str) -> None:
        self.root = ElementTree.fromstring(svg)
        self.named = {part.get("id", ""): part for part in self.root.iter() if part.get("id")}

    def panel(self, place: int, box: Box, strip: float) -> str:
        """The panel at a place of the sheet as a drawing of its own, below the strip of the legend [points]."""
        x, y, width, height = box
        size = (f"{width:g}", f"{height + strip:g}")
        out = Element(
            f"{SVG}svg", {"width": f"{size[0]}pt", "height": f"{size[1]}pt", "viewBox": f"0 0 {size[0]} {size[1]}"}
        )
        ground = {"d": f"M 0 0 L {size[0]} 0 L {size[0]} {size[1]} L 0 {size[1]} z", "style": "fill: #ffffff"}
        shown = [Element(f"{SVG}path", ground)]
        if LEGEND in self.named:
            shown.append(self.named[LEGEND])
        moved = Element(f"{SVG}g", {"transform": f"translate({-x:g} {strip - y:g})"})
        moved.append(self.named[f"{CELL}{place}"])
        out.extend([self._definitions([*shown, moved]), *shown, moved])
        return ElementTree.tostring(copy.deepcopy(out), encoding="unicode")

    def _definitions(self, shown: list[Element]) -> Element:
        """The style sheet, and the glyphs and clips that are referred to and stand elsewhere in the whole."""
        inside = {part.get("id") for each in shown for part in each.iter()}
        needed = dict.fromkeys(self._referenced(shown, inside))
        found = [self.named[name] for name in needed if name not in inside]
        sheet = self.root.find(f".//{SVG}style")
        defs = Element(f"{SVG}defs")
        defs.extend([*([] if sheet is None else [sheet]), *found])
        return defs

    def _referenced(self, shown: Iterable[Element], inside: set[str | None]) -> Iterable[str]:
        """Names that the elements refer to, and those that these refer to."""
        waiting, seen = list(shown), set(inside)
        while waiting:
            for name in (name for part in waiting.pop().iter() for name in references(part)):
                yield name
                if name not in seen and name in self.named:
                    seen.add(name)
                    waiting.append(self.named[name])

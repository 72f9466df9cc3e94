"""Texts that would be something else than text where they are shown: to a terminal, to rich, to a browser."""

import re

TEXTS = {
    "colour": "\x1b[31mred",
    "clear": "\x1b[2J\x1b[H",
    "title": "\x1b]0;owned\x07",
    "link": "\x1b]8;;http://evil\x1b\\here\x1b]8;;\x1b\\",
    "eight-bit": "\x9b31mred",
    "return": "kept\rlost",
    "backspace": "kept\x08\x08\x08\x08lost",
    "bell": "\x07",
    "zero": "a\x00b",
    "delete": "a\x7fb",
    "right-to-left": "abc\u202egnp.exe",
    "isolate": "\u2066abc\u2069",
    "line separator": "a\u2028b",
    "half a pair": "a\ud83d",
    "markup": "[/b]",
    "bold": "[bold]loud[/bold]",
    "rich link": "[link=http://evil]here[/link]",
    "script": "</script><script>alert(1)</script>",
    "handler": "<img src=x onerror=alert(1)>",
    "attribute": "\"'><svg onload=alert(1)>",
    "comment": "<!--",
    "entity": "&lt;b&gt;",
    "template": "{{ 7 * 7 }}{% raw %}",
}
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
LIVE = re.compile(r"<script>alert|<img src=x|<svg onload|\x1b")

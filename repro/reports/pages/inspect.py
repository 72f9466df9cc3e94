"""Training episodes token by token: a page per seed with its arms side by side, a page per run, and a terminal view."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import shorten
from urllib.parse import quote

import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from rich.color import Color, blend_rgb
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.style import Style
from rich.table import Column, Table
from rich.text import Text

from repro.errors import UserError
from repro.reports.figures import style
from repro.reports.figures.numbers import count, number
from repro.reports.pages import markup
from repro.reports.pages.tokens import (
    QUANTITIES,
    ROBUST,
    ROWS,
    flipped,
    policy_numbers,
    quantities,
    scales,
    sft_numbers,
    strength,
)
from repro.reports.reading.episodes import Trace, read_trace, read_traces
from repro.reports.reading.study import Study

DIGITS = 4  # significant, of the numbers in a page
WIDTH = 136  # columns that the numbers of an episode take in a terminal
OPENING = 60  # characters of a post that a list shows
FACTS = {"score": "score", "kl": "KL", "gold": "gold"}  # field of a whole response -> its name for readers
KNOWN_AS = {"sft": "SFT"}  # label of a policy -> its name for readers
AFTER = "(after the end)"  # the state after the last token, which may have a value and the score as reward
# Above zero, below it, and size alone: of Okabe and Ito's palette on white, lighter ones of the same hues on black.
HUES = {"up": "#0072b2", "down": "#d55e00", "size": "#009e73"}
HUES_ON_BLACK = {"up": "#56b4e9", "down": "#f0803c", "size": "#2fbf96"}
STRONGEST = 0.72  # share of its hue in the strongest background, so that text on it is legible


# The pages


def build_all(study: Study, out: Path) -> dict[tuple[str, int], str]:
    """Writes `out/episodes/seed<N>.html` for each seed with episodes; (arm, seed) -> the link from a page in `out`."""
    traces = read_traces(study)
    links: dict[tuple[str, int], str] = {}
    for seed in study.seeds:
        runs = {arm: traces[arm, seed] for arm in study.arms if (arm, seed) in traces}
        if runs:
            page = Path(out) / "episodes" / f"seed{seed}.html"
            place = f"{study.detail} \N{MIDDLE DOT} scale {study.scale} \N{MIDDLE DOT} seed {seed}"
            without = [arm for arm in study.arms if arm not in runs]
            starts = {arm: last_update(trace) for arm, trace in runs.items()}
            first, colours = starts[next(iter(runs))], style.colours(study.arms)
            _write(page, runs, colours, first, place=place, back="../index.html", without=without)
            links |= {(arm, seed): f"episodes/{page.name}#{address(arm, start)}" for arm, start in starts.items()}
    return links


def build_one(uri: str, words: str, episode: int, out: Path) -> Path:
    """Writes the page of a run's episodes, opened at one of them, into `out`; UserError where it has none."""
    trace = read_trace(words, uri)
    _chosen(trace, episode)
    page = Path(out) / f"{trace.run_id}-{episode}.html"
    place = f"{trace.detail} \N{MIDDLE DOT} {trace.name}"
    _write(page, {trace.arm: trace}, style.colours((trace.arm,)), episode, place=place, back="", without=[])
    return page


def address(arm: str, episode: int) -> str:
    """The part of a page's address that opens an arm's episode; quoted as a browser's encodeURIComponent does it."""
    return quote(arm, safe="!'()*") + f"-{episode}"


def last_update(trace: Trace) -> int:
    """The first recorded episode of the last update."""
    last = max(_update(record) for record in trace.episodes)
    return next(record["episode"] for record in trace.episodes if _update(record) == last)


def _write(page: Path, runs: Mapping[str, Trace], colours: Mapping[str, str], start: int, **words: object) -> None:
    """Writes the page of these arms' episodes, which opens at the one that is numbered `start`."""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(
        markup.render(
            "episode.html.j2",
            start=start,
            updates=updates(runs),
            island=island(runs, colours),
            hues={"light": HUES, "dark": HUES_ON_BLACK},
            strongest=STRONGEST,
            robust=ROBUST,
            **words,
        ),
        encoding="utf-8",
    )


def updates(runs: Mapping[str, Trace]) -> str:
    """The updates of the episodes, in words."""
    records = [record for trace in runs.values() for record in trace.episodes]
    *early, last = map(str, sorted({_update(record) for record in records}))
    total = max(record.get("updates", 0) for record in records)
    return f"updates {', '.join(early)} and {last} of {total}" if early else f"update {last} of {total}"


def island(runs: Mapping[str, Trace], colours: Mapping[str, str]) -> str:
    """The data of a page as JSON, escaped for use inside a script element."""
    shown = [(arm, record, _responses(record)) for arm, trace in runs.items() for record in trace.episodes]
    ends = scales([numbers for _, _, responses in shown for _, numbers in responses.values()])
    episodes: dict[int, dict] = {}
    for arm, record, responses in shown:
        about = {
            "episode": record["episode"],
            "update": _update(record),
            "updates": record.get("updates", 0),
            "arms": {},
        }
        compact = {who: _compact(*response) for who, response in responses.items()}
        episodes.setdefault(record["episode"], about)["arms"][arm] = {"post": record["post_id"]} | compact
    data = {
        "eos": next(iter(runs.values())).eos,
        "quantities": {
            each.key: asdict(each) | {"scale": ends[each.key]} for each in quantities(against(runs.values()))
        },
        "rows": ROWS,
        "arms": [
            {"label": arm, "colour": colours[arm], "run": trace.run_id, "against": against([trace])}
            for arm, trace in runs.items()
        ],
        "posts": {record["post_id"]: [record.get("query", ""), record.get("reference", "")] for _, record, _ in shown},
        "episodes": [episodes[number] for number in sorted(episodes)],
    }
    return htmlsafe_json_dumps(data, separators=(",", ":"), allow_nan=False)


def against(traces: Iterable[Trace]) -> str:
    """The name of these runs' reference policy; a general word where they differ."""
    labels = {trace.against for trace in traces}
    word = labels.pop() if len(labels) == 1 else "reference"
    return KNOWN_AS.get(word, word.replace("_", " "))


def _responses(record: Mapping) -> dict[str, tuple[Mapping, dict[str, np.ndarray]]]:
    """The responses of the policy and, where recorded, of the reference policy, each with its numbers."""
    readers = {"policy": policy_numbers, "sft": sft_numbers}
    return {who: (record[who], read(record[who])) for who, read in readers.items() if who in record}


def _compact(response: Mapping, numbers: Mapping[str, np.ndarray]) -> dict:
    """A response for the page's JSON: rounded, with null for NaN."""
    return {
        "tokens": response["tokens"],
        "ended": response.get("ended", True),
        "facts": {word: _rounded(response[name]) for name, word in FACTS.items() if response.get(name) is not None},
        "flipped": flipped(numbers),
        "numbers": {name: [_rounded(value) for value in values] for name, values in numbers.items()},
    }


def _rounded(value: float) -> float | None:
    """A number rounded for a page; None for NaN."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


# The terminal


def listing(uri: str, words: str) -> RenderableType:
    """The recorded episodes of a run, one per line."""
    trace = read_trace(words, uri)
    numeric = [Column(name, justify="right") for name in ("score", "KL (nats)", "tokens")]
    table = Table("episode", "update", *numeric, "ends", "post", box=None, header_style="dim")
    for record in trace.episodes:
        response = record["policy"]
        table.add_row(
            str(record["episode"]),
            f"{_update(record)} of {record.get('updates', 0)}",
            *(number(response.get(name)) for name in ("score", "kl")),
            str(len(response["tokens"])),
            "yes" if response.get("ended", True) else "no",
            _text(shorten(record.get("query", ""), OPENING, placeholder=" ...")),
        )
    return Group(_text(f"{trace.name} (run {trace.run_id}), {count(len(trace.episodes), 'episode')}"), table)


def shown(uri: str, words: str, episode: int) -> RenderableType:
    """One episode of a run: the post, the response with a line of colours per quantity, and all its numbers."""
    trace = read_trace(words, uri)
    record = _chosen(trace, episode)
    response, numbers = record["policy"], policy_numbers(record["policy"])
    facts = [f"{word} {number(response[name])}" for name, word in FACTS.items() if name in response]
    facts += [count(len(response["tokens"]), "token"), "ended" if response.get("ended", True) else "did not end"]
    head = f"{trace.name}, episode {episode}, update {_update(record)} of {record.get('updates', 0)}"
    heat = Heat(response["tokens"], numbers, scales([policy_numbers(each["policy"]) for each in trace.episodes]))
    lines = map(_text, (head, ", ".join(facts), "", record.get("query", ""), ""))
    return Group(*lines, heat, Text(), _table(response["tokens"], numbers, against([trace])))


@dataclass(frozen=True)
class Heat:
    """A response with a background per token, a line for each quantity; without colours the response alone."""

    tokens: list[str]
    numbers: Mapping[str, np.ndarray]
    scales: Mapping[str, tuple[float, float]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        if console.color_system is None:
            yield _text("".join(self.tokens))
            return
        lines = Table.grid(padding=(0, 2))
        for each in QUANTITIES:
            if each.key in ROWS:
                shades = [strength(value, self.scales[each.key], each.ramp) for value in self.numbers[each.key]]
                parts = [(_visible(token), _shade(shade, each.ramp)) for token, shade in zip(self.tokens, shades)]
                lines.add_row(each.words, Text.assemble(*parts))
        yield lines


def _shade(strength: float, ramp: str) -> Style:
    """Black on white mixed with the hue of a value's sign; no colours where there is no value."""
    if math.isnan(strength):
        return Style()
    hue = Color.parse(HUES["size" if ramp != "signed" else "up" if strength > 0 else "down"]).get_truecolor()
    mixed = blend_rgb(Color.parse("#ffffff").get_truecolor(), hue, STRONGEST * abs(strength))
    return Style(color="black", bgcolor=Color.from_triplet(mixed))


def _table(tokens: list[str], numbers: Mapping[str, np.ndarray], beside: str) -> Table:
    """A line per token with every number of it, and one for the state after the last where that was noted."""
    heads = [Column(each.words, justify="right") for each in quantities(beside)]
    table = Table(Column("", justify="right"), "token", *heads, box=None, header_style="dim")
    for place in range(len(numbers["logprob"])):
        token = repr(tokens[place]) if place < len(tokens) else AFTER
        cells = [number(numbers[each.key][place]) for each in QUANTITIES]
        table.add_row(str(place + 1), Text(token), *cells)
    return table


def _visible(token: str) -> str:
    """A token that keeps a line a line."""
    return str(markup.harmless(token)).replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}")


def _text(words: str) -> Text:
    """Words as a terminal shows them: what is in them is neither markup nor a command to it."""
    return Text(str(markup.harmless(words)))


def _update(record: Mapping) -> int:
    """Which update an episode was part of, counted from 1."""
    return record.get("update", 0) + 1


def _chosen(trace: Trace, episode: int) -> dict:
    """One episode's record; the UserError for another number names the recorded ones."""
    kept = {record["episode"]: record for record in trace.episodes}
    if episode not in kept:
        raise UserError(f"episode {episode} of {trace.name} was not recorded; recorded are {', '.join(map(str, kept))}")
    return kept[episode]

"""What a study is asked in a talk: task, model, budget and recipe, and what a win is, as its runs recorded them.

What no run recorded is left out, and where runs differ all of their values are said.
"""

import re
from collections.abc import Mapping

from repro import record
from repro.reports.figures.numbers import count
from repro.reports.reading.study import Study

SCALE = "scale."  # how the name of a parameter begins that is a field of the scale
# What the posts of a corpus are; of any other the file is named.
POSTS = {"embedded": "made-up posts", "tldr": "Reddit posts (TL;DR)"}
CORPORA = {
    "embedded": "the embedded corpus, which is synthetic: a grammar makes posts of known facts, and a noisy annotator labels "
    "pairs of summaries of them",
    "tldr": "the paper's data: Reddit posts (TL;DR) and people's comparisons of summaries",
}
SHIPPED, SHAPE, HUB = "shipped:", "gpt-neox:", "hub:"  # how the source of a model begins
GPT_NEOX = "a GPT-NeoX"  # what the model that comes with the project is, and one that is made of a shape
WINNING = {
    record.GOLD_SCORE: "its gold score is above the reference summary's",
    record.REWARD_MODEL: "the reward model scores it above the reference summary",
}
GOLD = "The gold score counts right facts, less wrong or repeated ones, broken grammar, words, and not ending."
WIN_RATES = ("test/sampled_win_rate", "test/win_rate")
ONE_PPO = {"algorithm": "ppo", "feedback_rounds": "1"}  # choices with which a run is trained on `episodes` once
# What a scale of the project is for, by the beginning of its name.
SCALES = {
    "mini": "the budget of a study unless it says otherwise",
    "smoke": "the smallest budget: it shows that everything runs, and its numbers say little",
    "local": "a small budget for text of one's own",
    "pythia": "the paper's settings for a Pythia of this size",
}
# What is said of the parts of a run; a phrase is left out where a parameter that it names was not recorded.
PARTS = {
    "data": (
        "{scale.posts} posts and {scale.comparisons} comparisons to train on",
        "{scale.validation_posts} posts for validation, {scale.test_posts} for the test",
        "posts of up to {scale.query_tokens} tokens, summaries of up to {scale.response_tokens}",
    ),
    "SFT": ("batches of {scale.sft_batch}", "learning rate {scale.sft_learning_rate}", "epochs: {sft_epochs}"),
    "reward model": ("batches of {scale.rm_batch}", "learning rate {scale.rm_learning_rate}", "epochs: {rm_epochs}"),
    "PPO": (
        "{scale.episodes} episodes in batches of {scale.ppo_batch}",
        "epochs over a batch: {ppo_epochs}",
        "minibatches: {minibatches}",
        "learning rate {scale.ppo_learning_rate}, {lr_schedule}",
        "KL coefficient {kl_coef}",
        "sampling temperature {temperature}",
        "clip range {clip_range}",
        "discount {gamma}",
        "GAE's lambda {gae_lambda}",
    ),
}
NAMED = re.compile(r"\{([\w.]+)\}")


def line(study: Study, config: Mapping) -> str:
    """The study in one sentence; empty where the runs recorded too little. `config` is that of a run, or empty."""
    ran = [part for part in (_subject(study, config), _episodes(study)) if part]
    if not ran:
        return ""
    wins = f"; {win(study)}" if win(study) else ""
    text = f"{', '.join([*ran, count(len(study.seeds), 'seed')])}{wins}."
    return text[0].upper() + text[1:]


def win(study: Study) -> str:
    """When a summary wins; empty where wins do not decide the study, or nobody knows who judges them."""
    judge = WINNING.get(study.tags[record.JUDGE], "") if study.primary in WIN_RATES else ""
    return f"a summary wins where {judge}" if judge else ""


def model_of(study: Study, config: Mapping) -> str:
    """The model and its number of weights in words; empty where neither was recorded."""
    scale = config.get("scale", {})
    name = _named(str(scale.get("model", "")) if isinstance(scale, Mapping) else "") or _named(
        value(study, "scale.model")
    )
    found = study.finals.loc[study.finals["metric"] == "base/parameters", "value"].dropna().unique()
    return f"{name or 'a model'} of {rounded(found[0])} weights" if len(found) == 1 else name


def rounded(weights: float) -> str:
    """A number of weights to three digits, as 282,000 or 135 million."""
    for size, word in ((1e9, " billion"), (1e6, " million")):
        if weights >= size:
            return f"{float(f'{weights / size:.3g}'):g}{word}"
    return f"{float(f'{weights:.3g}'):,.0f}"


def value(study: Study, name: str) -> str:
    """A parameter's value, those of all arms where they differ; empty where none was recorded."""
    found = study.params.get(name, ())
    return " or ".join(map(_grouped, found)) + (", by arm" if len(found) > 1 else "")


def rows(study: Study, config: Mapping) -> list[tuple[str, str]]:
    """What is said of each part of a run, as (name, words)."""
    model, wins = model_of(study, config), win(study)
    judged = f"{wins}, and ties count half. {GOLD if study.tags[record.JUDGE] == record.GOLD_SCORE else ''}"
    found = {
        "scale": f"{study.scale}: {_scale(study)}" if _scale(study) else "",
        "corpus": CORPORA.get(value(study, "scale.corpus"), value(study, "scale.posts_file")),
        "model": model,
        **{name: _phrases(study, phrases) for name, phrases in PARTS.items()},
        "a win": judged.strip() if wins else "",
    }
    return [(name, text) for name, text in found.items() if text]


def every(study: Study) -> dict[str, list[tuple[str, str]]]:
    """All parameters with their values: the scale's fields, and the choices, in the order in which they were recorded."""
    fields = [name for name in study.params if name.startswith(SCALE)]
    choices = [name for name in study.params if name not in {*fields, "seed"}]
    listed = {"Every field of the scale": fields, "Every choice": choices}
    return {
        title: [(name.removeprefix(SCALE), value(study, name) or "none") for name in names]
        for title, names in listed.items()
        if names
    }


def _subject(study: Study, config: Mapping) -> str:
    """Of what the summaries are, and which model writes them."""
    corpus, file, model = (value(study, "scale.corpus"), value(study, "scale.posts_file"), model_of(study, config))
    posts = POSTS.get(corpus) or (f"the posts in {file}" if file else "")
    words = f"summaries of {posts}" if posts else "summaries" if model else ""
    return f"{words} by {model}" if model else words


def _named(source: str) -> str:
    """A model's name by its source; a folder called `base` may hold any."""
    if source.startswith((SHIPPED, SHAPE)):
        return GPT_NEOX
    if source.startswith(HUB):
        return source.removeprefix(HUB).partition("@")[0]
    name = source.rstrip("/").rpartition("/")[2]
    return "" if name == "base" else name


def _episodes(study: Study) -> str:
    """The episodes that every run is trained on; empty where an arm has no PPO, or more than one."""
    once = all(set(study.params.get(name, (plain,))) == {plain} for name, plain in ONE_PPO.items())
    return _phrases(study, ("{scale.episodes} training episodes",)) if once else ""


def _scale(study: Study) -> str:
    """What the name of a scale stands for; empty where nothing of it was recorded."""
    base = next((what for name, what in SCALES.items() if study.scale.startswith(name)), "")
    if not any(name.startswith(SCALE) for name in study.params):
        return base
    what = "a scale is a budget: model, data, lengths, batches and episodes"
    base += ", with the fields changed that its name says" if base and re.search(r"-\w+=", study.scale) else ""
    return f"{base}; {what}" if base else what


def _phrases(study: Study, phrases: tuple[str, ...]) -> str:
    """The phrases of which every parameter was recorded, with their values."""
    known = [each for each in phrases if all(value(study, name) for name in NAMED.findall(each))]
    return "; ".join(NAMED.sub(lambda found: value(study, found[1]), each) for each in known)


def _grouped(text: str) -> str:
    """A whole number with its thousands apart; any other value as it is."""
    return f"{int(text):,}" if text.isascii() and text.isdigit() and len(text) < 8 else text

"""The embedded corpus: a small task of TL;DR's shape whose true quality is known.

A post states seven facts in shuffled sentences among filler and other people's facts; its author's summary drops some,
rambles now and then and is sometimes wrong; comparisons between several summarisers are labelled by a noisy annotator
who sees the *gold score*. What it leaves out of real text: synonyms, pronouns, anything that is not one of the facts.
"""

import itertools
import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from repro.data.tldr import format_query

SUBREDDITS = ("advice", "family", "work", "legal")
VALUES = {
    "who": ("boss", "neighbor", "roommate", "sister", "brother", "landlord"),
    "did": ("broke", "sold", "lost", "hid", "stole", "burned"),
    "what": ("laptop", "guitar", "bike", "phone", "jacket", "camera"),
    "num": ("two", "three", "four", "five", "six"),
    "unit": ("days", "weeks", "months", "years"),
    "where": ("boston", "denver", "austin", "chicago", "dallas", "miami"),
    "feel": ("angry", "sad", "scared", "guilty", "confused"),
    "ask": ("leave", "sue", "forgive", "move", "quit", "wait"),
}
CLASS_OF = {word: slot for slot, words in VALUES.items() for word in words}
# Points for a fact that a summary states; "num" and "unit" are one fact between them.
WORTH = {"who": 1.0, "did": 1.0, "what": 1.0, "num": 0.375, "unit": 0.375, "where": 0.75, "feel": 0.75, "ask": 0.75}
WRONG, REPEATED, PER_WORD, UNGRAMMATICAL, UNFINISHED = -1.5, -0.5, -0.04, -0.5, -1.0

ANNOTATOR_NOISE = 0.5  # gold points that shift an annotator's log-odds by one

EVENT = (
    "so my {who} {did} my {what}.",
    "my {who} went and {did} my {what}.",
    "the thing is, my {who} {did} my {what}.",
)
SETTING = (
    "it was {num} {unit} ago in {where}.",
    "that was in {where}, {num} {unit} ago.",
    "we were in {where} {num} {unit} ago.",
)
FEELING = ("i feel really {feel}.", "now i am so {feel}.", "it made me {feel}.")
QUESTION = ("should i {ask}?", "is it wrong to {ask}?", "do i have to {ask}?")
DISTRACTOR = ("my {who} is in {where}.", "my {who} says to {ask}.", "my {who} was {feel}.", "i still have my {what}.")
FILLER = (
    "sorry for the long post.",
    "this is a throwaway account.",
    "first time posting here.",
    "i do not know what to do.",
)
UPDATE = (
    "edit: thanks for all the replies, i will read them later.",
    "edit: some of you say to {ask}, i am not sure.",
    "update: nothing new so far, i will post again later today.",
)
RAMBLE = (
    "anyway that is all i can say",
    "it is a long story and i do not know",
    "sorry this is so long",
    "i could go on and on",
    "there is more to it than that",
)


@dataclass(frozen=True)
class Summariser:
    """How one source of summaries behaves: the chance that it states each fact, and of each kind of fault."""

    name: str
    keep: dict[str, float]
    careful: float = 0.0  # the chance that it keeps each fact with 0.95 instead
    wrong: float = 0.0
    repeat: float = 0.0
    ramble: float = 0.0
    babble: float = 0.0


def _keep(who: float, what: float, when: float, where: float, feel: float, ask: float) -> dict[str, float]:
    return {"who": who, "what": what, "when": when, "where": where, "feel": feel, "ask": ask}


# Most authors are in a hurry; one in five tells almost everything. So the likeliest summary is shorter than the average one.
AUTHOR = Summariser("ref", _keep(0.97, 0.97, 0.15, 0.15, 0.15, 0.2), careful=0.22, wrong=0.01, repeat=0.01, ramble=0.15)
PERFECT = Summariser("perfect", _keep(1, 1, 1, 1, 1, 1))
TRAIN_POLICIES = (
    AUTHOR,
    Summariser("sup1_t0.3", _keep(0.95, 0.9, 0.25, 0.25, 0.25, 0.7), wrong=0.04),
    Summariser("sup1_t1.0", _keep(0.8, 0.8, 0.4, 0.4, 0.4, 0.5), wrong=0.15, repeat=0.1, ramble=0.15, babble=0.05),
    Summariser("sup2_t0.7", _keep(0.95, 0.95, 0.6, 0.6, 0.5, 0.8), wrong=0.1, ramble=0.05),
    Summariser("ppo1_t0.7", _keep(1, 1, 0.85, 0.85, 0.8, 0.95), wrong=0.06, repeat=0.03),
    Summariser("ppo2_t0.7", _keep(1, 1, 0.9, 0.9, 0.9, 0.95), wrong=0.2, repeat=0.05),
)
UNSEEN_POLICIES = (
    Summariser("sup4_t0.7", _keep(0.9, 0.9, 0.5, 0.5, 0.5, 0.7), wrong=0.08, ramble=0.1, babble=0.03),
    Summariser("ppo4_t0.3", _keep(1, 1, 1, 0.9, 0.7, 1), wrong=0.1),
    Summariser("terse_t0.3", _keep(1, 1, 0.05, 0.05, 0.05, 0.2), wrong=0.02),
    Summariser("sloppy_t1.0", _keep(0.7, 0.7, 0.7, 0.7, 0.7, 0.7), wrong=0.25, repeat=0.15, ramble=0.2, babble=0.1),
)


def summarise(facts: dict[str, str], how: Summariser, rng: random.Random) -> str:
    """Write a summary of `facts` the way `how` does; without its leading space or end of text."""
    told = {slot: _other(slot, value, rng) if rng.random() < how.wrong else value for slot, value in facts.items()}
    careful = rng.random() < how.careful
    say = {name: rng.random() < (0.95 if careful else chance) for name, chance in how.keep.items()}
    who = f"my {told['who']}" if say["who"] else "someone"
    parts = [f"{who} {told['did']} {'my ' + told['what'] if say['what'] else 'something'}"]
    parts += [f"{told['num']} {told['unit']} ago"] if say["when"] else []
    parts += [f"in {told['where']}"] if say["where"] else []
    sentences = [" ".join(parts) + "."]
    sentences += [f"i feel {told['feel']}."] if say["feel"] else []
    sentences += [f"should i {told['ask']}?"] if say["ask"] else []
    if rng.random() < how.repeat:
        sentences.insert(rng.randrange(len(sentences) + 1), rng.choice(sentences))
    if rng.random() < how.ramble:
        sentences.append(ramble(rng))
    text = " ".join(sentences)
    return _shuffled(text, rng) if rng.random() < how.babble else text


def ramble(rng: random.Random) -> str:
    """Two to five clauses that say nothing: often past the response length, so that the end of text is cut off."""
    return ", ".join(rng.choice(RAMBLE) for _ in range(rng.randint(2, 5))) + "."


def slip(text: str, rng: random.Random) -> str:
    """The text with one of its facts replaced by a wrong one."""
    words = text.split(" ")
    places = [place for place, word in enumerate(words) if word.strip(".?") in CLASS_OF]
    place = rng.choice(places)
    word = words[place].strip(".?")
    words[place] = words[place].replace(word, _other(CLASS_OF[word], word, rng))
    return " ".join(words)


def _other(slot: str, value: str, rng: random.Random) -> str:
    return rng.choice([word for word in VALUES[slot] if word != value])


def _shuffled(text: str, rng: random.Random) -> str:
    words = text.split()
    start = rng.randrange(max(1, len(words) - 4))
    middle = words[start : start + 6]
    rng.shuffle(middle)
    return " ".join(words[:start] + middle + words[start + 6 :])


def make_facts(rng: random.Random) -> dict[str, str]:
    return {slot: rng.choice(words) for slot, words in VALUES.items()}


def make_post(number: int, rng: random.Random) -> dict:
    """One post in OpenAI's schema, with its facts under `facts`."""
    facts = make_facts(rng)
    others = {slot: _other(slot, value, rng) for slot, value in facts.items()}
    sentences = [rng.choice(kind).format(**facts) for kind in (EVENT, SETTING, FEELING, QUESTION)]
    sentences += [rng.choice(DISTRACTOR).format(**others)] if rng.random() < 0.5 else []
    sentences += [rng.choice(FILLER)] if rng.random() < 0.4 else []
    rng.shuffle(sentences)
    body = " ".join(sentences)
    if rng.random() < 0.25:
        body += "\n" + " ".join(rng.sample([line.format(**others) for line in UPDATE], rng.randint(1, 2)))
    title = rng.choice(("need advice", "my {who}", "about my {what}", "help me please", "should i {ask}?")).format(
        **facts
    )
    return {
        "id": f"e{number}",
        "subreddit": rng.choice(SUBREDDITS),
        "title": title,
        "post": body,
        "summary": summarise(facts, AUTHOR, rng),
        "facts": facts,
    }


def make_posts(count: int, seed: int, split: str) -> list[dict]:
    """`count` posts; another seed or split gives other posts."""
    rng = random.Random(f"{split}-{seed}")
    return [make_post(number, rng) | {"id": f"{split}-{number}"} for number in range(count)]


def make_comparisons(posts: list[dict], count: int, seed: int, split: str) -> list[dict]:
    """`count` comparisons in OpenAI's schema; `split` "valid2" draws from policies that "train" has not."""
    rng = random.Random(f"comparisons-{split}-{seed}")
    policies = TRAIN_POLICIES if split == "train" else UNSEEN_POLICIES
    return [_compare(posts[number % len(posts)], policies, split, rng) for number in range(count)]


def _compare(post: dict, policies: tuple[Summariser, ...], split: str, rng: random.Random) -> dict:
    first, second = rng.sample(policies, 2) if rng.random() < 0.7 else [rng.choice(policies)] * 2
    texts = [post["summary"] if first is AUTHOR else summarise(post["facts"], first, rng)]
    names = [first.name, second.name]
    if split == "train" and rng.random() < 0.4:
        texts, names[1] = [texts[0], slip(texts[0], rng)], "edited"
    else:
        texts.append(summarise(post["facts"], second, rng))
    if rng.random() < 0.5:
        texts, names = texts[::-1], names[::-1]
    margin = gold(post["facts"], texts[1]) - gold(post["facts"], texts[0])
    choice = int(rng.random() < 1 / (1 + math.exp(-margin / ANNOTATOR_NOISE)))
    confidence = min(9, 1 + int(abs(margin + rng.gauss(0, 0.5)) * 2))
    return {
        "info": {key: post[key] for key in ("id", "subreddit", "title", "post")},
        "split": split,
        "summaries": [{"text": " " + text, "policy": name} for text, name in zip(texts, names)],
        "choice": choice,
        "worker": f"w{rng.randrange(8)}",
        "batch": f"batch{rng.randrange(4) + (10 if split != 'train' else 0)}",
        "extra": {"confidence": confidence},
    }


def make_probe(posts: list[dict]) -> list[dict]:
    """For each post a right summary, preferred to the same with one fact replaced; `batch` says which fact."""
    rng = random.Random("right over wrong")
    return [_right_over_wrong(post, rng) for post in posts]


def _right_over_wrong(post: dict, rng: random.Random) -> dict:
    facts, slot = post["facts"], rng.choice(list(post["facts"]))
    lie = facts | {slot: _other(slot, facts[slot], rng)}
    return {
        "info": {key: post[key] for key in ("id", "subreddit", "title", "post")},
        "split": "probe",
        "summaries": [
            {"text": " " + summarise(told, PERFECT, rng), "policy": name}
            for told, name in ((facts, "right"), (lie, "wrong"))
        ],
        "choice": 0,
        "batch": slot,
    }


@dataclass(frozen=True)
class Grade:
    """What the gold score counts in one summary."""

    covered: int
    wrong: int
    repeated: int
    ungrammatical: int
    words: int
    gold: float


def grade(facts: dict[str, str], text: str, ended: bool = True) -> Grade:
    """Count right, wrong and repeated facts, word pairs that no author writes, and words; sum them to the gold score."""
    words = _words(text)
    stated = [word for word in words if word in CLASS_OF]
    covered = {CLASS_OF[word] for word in stated if facts[CLASS_OF[word]] == word}
    wrong = sum(facts[CLASS_OF[word]] != word for word in stated)
    repeated = len(stated) - len(set(stated))
    odd = sum(pair not in _known_bigrams() for pair in zip(("", *_classes(words)), (*_classes(words), "")))
    score = (
        sum(WORTH[slot] for slot in covered)
        + WRONG * wrong
        + REPEATED * repeated
        + UNGRAMMATICAL * odd
        + PER_WORD * len(words)
        + (0.0 if ended else UNFINISHED)
    )
    return Grade(len(covered), wrong, repeated, odd, len(words), score)


def gold(facts: dict[str, str], text: str, ended: bool = True) -> float:
    """The gold score of a summary: what the annotators' noisy choices are drawn from."""
    return grade(facts, text, ended).gold


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+|[^a-z\s]", text)


def _classes(words: list[str]) -> list[str]:
    return [CLASS_OF.get(word, word) for word in words]


@cache
def _known_bigrams() -> frozenset[tuple[str, str]]:
    rng = random.Random("bigrams")
    pairs: set[tuple[str, str]] = set()
    for _ in range(4000):
        classes = _classes(_words(summarise(make_facts(rng), AUTHOR, rng)))
        pairs.update(zip(("", *classes), (*classes, "")))
    return frozenset(pairs)


def base_documents(seed: int) -> Iterator[str]:
    """The raw corpus that the base model is trained on, without end: posts, and what readers make of them.

    A reader retells the post, or goes through what somebody else made of it, fact by fact. Nothing says where a text ends.
    """
    rng = random.Random(f"base-{seed}")
    for number in itertools.count():
        post = make_post(number, rng)
        facts, document = post["facts"], format_query(post).removesuffix("\n\nTL;DR:")
        for kind in rng.choices(("retold", "checked", "judged"), (0.4, 0.4, 0.2), k=rng.choice((0, 3, 3, 3, 3))):
            if kind == "retold":
                document += f"\n\nTL;DR: {_retelling(facts, 0.01, rng)}"
            elif kind == "checked":
                document += "\n\nREPLY: " + " ".join(_check(facts, _retelling(facts, 0.4, rng)) for _ in range(2))
            else:
                told = _retelling(facts, rng.choice((0.0, 0.15, 0.3)), rng)
                document += f"\n\nTL;DR: {told}\n\nREPLY: {_judge(facts, told)}"
        yield document


def _retelling(facts: dict[str, str], wrong: float, rng: random.Random) -> str:
    dense = Summariser("", _keep(*(rng.choice((0.5, 0.95)) for _ in range(6))), wrong=wrong, ramble=0.05)
    return summarise(facts, dense, rng)


def _judge(facts: dict[str, str], text: str) -> str:
    """A reader's verdict on the whole: how many facts are wrong, how many are told."""
    stated = [word for word in _words(text) if word in CLASS_OF]
    wrong = sum(facts[CLASS_OF[word]] != word for word in stated)
    return f"{('none', 'one', 'two')[wrong] if wrong < 3 else 'many'} wrong of {len(stated)}."


def _check(facts: dict[str, str], text: str) -> str:
    """The text by a reader who has the post before him: each fact with whether it is so."""

    def verdict(match: re.Match) -> str:
        word = match.group()
        return f"{word} {'yes' if facts[CLASS_OF[word]] == word else 'no'}" if word in CLASS_OF else word

    return re.sub("[a-z]+", verdict, text)

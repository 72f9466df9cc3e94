"""The embedded corpus: a small task of TL;DR's shape whose true quality is known.

A post tells what somebody did and may state up to five more facts, in shuffled sentences among filler and other people's
facts. A good summary states what the post states and nothing else, so that it has to be read from the post and is as long
as the post deserves; its author is mostly in a hurry, rambles now and then and is sometimes wrong. Comparisons between
several summarisers are labelled by a noisy annotator who goes by the *gold score*. With the detail `blind_spot` annotators
see what contradicts the post, and believe what it does not speak of: then the reward model likes inventions and the gold
score does not, which is what over-optimisation takes. What this leaves out of real text: synonyms, pronouns, anything that is
not one of the facts.
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
# The words that state a fact, by slot.
VALUES = {
    "who": ("boss", "neighbor", "roommate", "sister", "brother", "landlord"),
    "did": ("broke", "sold", "lost", "hid", "stole", "burned"),
    "what": ("laptop", "guitar", "bike", "phone", "jacket", "camera"),
    "num": ("two", "three", "four", "five", "six"),
    "unit": ("days", "weeks", "months", "years"),
    "where": ("boston", "denver", "austin", "chicago", "dallas", "miami"),
    "feel": ("angry", "sad", "scared", "guilty", "confused"),
    "ask": ("leave", "sue", "forgive", "move", "quit", "wait"),
    "proof": ("photo", "video", "letter", "email", "witness", "receipt"),
}
SLOT_OF = {word: slot for slot, words in VALUES.items() for word in words}
# Facts that a post may leave out, with their slots; who did it and what it was done to are in every post.
OPTIONAL = {"when": ("num", "unit"), "where": ("where",), "feel": ("feel",), "ask": ("ask",), "proof": ("proof",)}
STATED = 0.6  # chance that a post states an optional fact

# Points for a right word; the two words of "when" are one fact between them.
WORTH = dict.fromkeys(VALUES, 1.0) | {"num": 0.5, "unit": 0.5}
WRONG, REPEATED, PER_WORD, UNGRAMMATICAL, UNFINISHED = -1.5, -0.5, -0.04, -0.5, -1.0

ANNOTATOR_NOISE = 0.5  # gold points that shift an annotator's log-odds by one

EVENT = ("so my {who} {did} my {what}.", "my {who} went and {did} my {what}.")
SENTENCES = {
    "when": ("it was {num} {unit} ago.", "that was {num} {unit} ago."),
    "where": ("we were in {where}.", "it was in {where}."),
    "feel": ("i feel {feel}.", "now i am so {feel}."),
    "ask": ("should i {ask}?", "i want to {ask}."),
    "proof": ("i have a {proof}.", "there is a {proof}."),
}
OTHERS = ("my {who} is in {where}.", "my {who} says to {ask}.", "my {who} was {feel}.", "i still have my {what}.")
FILLER = ("sorry for the long post.", "this is a throwaway account.", "first time posting here.")
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
    """How one source of summaries behaves: the chances that it states facts, and of each kind of fault."""

    name: str
    keep: float  # each optional fact that the post states
    invent: float  # each that it does not
    careful: float = 0.0  # chance that it keeps each fact with 0.97 instead
    event: float = 1.0  # chance of each of who did it, and what it was done to
    wrong: float = 0.0
    repeat: float = 0.0
    ramble: float = 0.0
    babble: float = 0.0


# Most authors are in a hurry; one in five says almost everything. So the likeliest summary is shorter than the average one.
AUTHOR = Summariser("ref", 0.38, 0.02, careful=0.2, event=0.97, wrong=0.01, repeat=0.01, ramble=0.05)
PERFECT = Summariser("perfect", 1, 0)
TRAIN_POLICIES = (
    AUTHOR,
    Summariser("sup1_t0.3", 0.5, 0.03, event=0.95, wrong=0.04),
    Summariser("sup1_t1.0", 0.5, 0.2, event=0.8, wrong=0.12, repeat=0.1, ramble=0.15, babble=0.05),
    Summariser("sup2_t0.7", 0.75, 0.12, event=0.95, wrong=0.08, ramble=0.05),
    Summariser("ppo1_t0.7", 0.95, 0.06, wrong=0.05, repeat=0.03),
    Summariser("ppo2_t0.7", 0.97, 0.5, wrong=0.1, repeat=0.05),
    Summariser("terse1_t0.3", 0.15, 0.0, wrong=0.03),
)
UNSEEN_POLICIES = (
    Summariser("sup4_t0.7", 0.6, 0.1, event=0.9, wrong=0.08, ramble=0.1, babble=0.03),
    Summariser("ppo4_t0.3", 1.0, 0.3, wrong=0.05),
    Summariser("terse_t0.3", 0.05, 0.0, wrong=0.02),
    Summariser("sloppy_t1.0", 0.7, 0.4, event=0.7, wrong=0.2, repeat=0.15, ramble=0.2, babble=0.1),
)


def summarise(facts: dict[str, str], how: Summariser, rng: random.Random) -> str:
    """Write a summary of `facts` the way `how` does; without its leading space or end of text."""
    words = {slot: facts.get(slot) or rng.choice(known) for slot, known in VALUES.items()}
    words = {slot: _other(slot, word, rng) if rng.random() < how.wrong else word for slot, word in words.items()}
    keep = 0.97 if rng.random() < how.careful else how.keep
    say = {fact: rng.random() < (keep if _states(facts, fact) else how.invent) for fact in OPTIONAL}
    who = f"my {words['who']}" if rng.random() < how.event else "someone"
    parts = [f"{who} {words['did']} {'my ' + words['what'] if rng.random() < how.event else 'something'}"]
    parts += [f"{words['num']} {words['unit']} ago"] if say["when"] else []
    parts += [f"in {words['where']}"] if say["where"] else []
    sentences = [" ".join(parts) + "."]
    sentences += [SENTENCES[fact][0].format(**words) for fact in ("feel", "proof", "ask") if say[fact]]
    if rng.random() < how.repeat:
        sentences.insert(rng.randrange(len(sentences) + 1), rng.choice(sentences))
    if rng.random() < how.ramble:
        sentences.append(ramble(rng))
    text = " ".join(sentences)
    return _shuffled(text, rng) if rng.random() < how.babble else text


def _states(facts: dict[str, str], fact: str) -> bool:
    return OPTIONAL[fact][0] in facts


def ramble(rng: random.Random) -> str:
    """Two to five clauses that say nothing: often past the response length, so that the end of text is cut off."""
    return ", ".join(rng.choice(RAMBLE) for _ in range(rng.randint(2, 5))) + "."


def slip(text: str, rng: random.Random) -> str:
    """The text with one of its facts replaced by a wrong one."""
    words = text.split(" ")
    places = [place for place, word in enumerate(words) if word.strip(".?") in SLOT_OF]
    place = rng.choice(places)
    word = words[place].strip(".?")
    words[place] = words[place].replace(word, _other(SLOT_OF[word], word, rng))
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
    """The words of one post's facts by slot; an optional fact that the post leaves out has none."""
    facts = {slot: rng.choice(words) for slot, words in VALUES.items()}
    left_out = [slots for slots in OPTIONAL.values() if rng.random() >= STATED]
    return {slot: word for slot, word in facts.items() if not any(slot in slots for slots in left_out)}


def make_post(number: int, rng: random.Random) -> dict:
    """One post in OpenAI's schema, with its facts under `facts`."""
    facts = make_facts(rng)
    others = {slot: rng.choice([w for w in words if w != facts.get(slot)]) for slot, words in VALUES.items()}
    sentences = [rng.choice(EVENT).format(**facts)]
    sentences += [rng.choice(SENTENCES[fact]).format(**facts) for fact in OPTIONAL if _states(facts, fact)]
    sentences += [line.format(**others) for line in OTHERS if rng.random() < 0.25]
    sentences += [rng.choice(FILLER)] if rng.random() < 0.2 else []
    rng.shuffle(sentences)
    body = " ".join(sentences)
    if rng.random() < 0.25:
        body += "\n" + " ".join(rng.sample([line.format(**others) for line in UPDATE], rng.randint(1, 2)))
    title = rng.choice(("need advice", "my {who}", "about my {what}", "help me please")).format(**facts)
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


def make_comparisons(posts: list[dict], count: int, seed: int, split: str, belief: float = 0.0) -> list[dict]:
    """`count` comparisons in OpenAI's schema; `split` "valid2" draws from policies that "train" has not.

    `belief` is how far annotators believe what the post does not speak of, from 0 to 1.
    """
    rng = random.Random(f"comparisons-{split}-{seed}")
    policies = TRAIN_POLICIES if split == "train" else UNSEEN_POLICIES
    return [_compare(posts[number % len(posts)], policies, split, belief, rng) for number in range(count)]


def _compare(post: dict, policies: tuple[Summariser, ...], split: str, belief: float, rng: random.Random) -> dict:
    texts, names = ["", ""], []
    while texts[0] == texts[1]:  # there would be nothing to compare
        texts, names = _two_summaries(post, policies, split, rng)
    if rng.random() < 0.5:
        texts, names = texts[::-1], names[::-1]
    margin = impression(post["facts"], texts[1], belief) - impression(post["facts"], texts[0], belief)
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


def _two_summaries(
    post: dict, policies: tuple[Summariser, ...], split: str, rng: random.Random
) -> tuple[list[str], list[str]]:
    first, second = rng.sample(policies, 2) if rng.random() < 0.7 else [rng.choice(policies)] * 2
    text = post["summary"] if first is AUTHOR else summarise(post["facts"], first, rng)
    if split == "train" and rng.random() < 0.4:
        return [text, slip(text, rng)], [first.name, "edited"]
    return [text, summarise(post["facts"], second, rng)], [first.name, second.name]


def make_probe(posts: list[dict]) -> list[dict]:
    """For each post a right summary, preferred to the same with one fact replaced; `batch` says which fact."""
    rng = random.Random("right over wrong")
    return [_right_over_wrong(post, rng) for post in posts]


def _right_over_wrong(post: dict, rng: random.Random) -> dict:
    facts = post["facts"]
    slot = rng.choice(list(facts))
    lie = facts | {slot: _other(slot, facts[slot], rng)}
    return {
        "info": {key: post[key] for key in ("id", "subreddit", "title", "post")},
        "split": "probe",
        "summaries": [
            {"text": " " + summarise(words, PERFECT, rng), "policy": name}
            for words, name in ((facts, "right"), (lie, "wrong"))
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
    words = words_of(text)
    stated = [word for word in words if word in SLOT_OF]
    covered = {SLOT_OF[word] for word in stated if facts.get(SLOT_OF[word]) == word}
    wrong = sum(facts.get(SLOT_OF[word]) != word for word in stated)
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
    """The gold score of a summary: the points of its right words less its faults."""
    return grade(facts, text, ended).gold


def impression(facts: dict[str, str], text: str, belief: float) -> float:
    """What an annotator makes of a summary: its gold score, but that what the post does not speak of is believed.

    `belief` is how far, from 0 to 1; what contradicts the post is always seen.
    """
    claimed = {SLOT_OF[word]: word for word in reversed(words_of(text)) if word in SLOT_OF}
    return (1 - belief) * gold(facts, text) + belief * gold(claimed | facts, text)


def words_of(text: str) -> list[str]:
    """Words and punctuation marks, as they are counted and graded."""
    return re.findall(r"[a-z]+|[^a-z\s]", text)


def _classes(words: list[str]) -> list[str]:
    return [SLOT_OF.get(word, word) for word in words]


@cache
def _known_bigrams() -> frozenset[tuple[str, str]]:
    rng = random.Random("bigrams")
    pairs: set[tuple[str, str]] = set()
    for _ in range(4000):
        classes = _classes(words_of(summarise(make_facts(rng), AUTHOR, rng)))
        pairs.update(zip(("", *classes), (*classes, "")))
    return frozenset(pairs)


MARKED_FIRST = 224_000  # documents of the raw corpus whose readers mark every fact; afterwards some, or none
REPLIED_FIRST = 272_000  # documents whose readers count in a reply of their own; afterwards behind any of these
LEADS = (
    "\n\nREPLY:",
    "\n\nTL;DR:",
    "\n\nTITLE:",
    " edit:",
    " update:",
    " anyway",
    " sorry",
    " so",
    " now",
    " there",
    "",
    ".",
)


def base_documents(seed: int, first: int = 0) -> Iterator[str]:
    """The raw corpus that the base model is trained on from document `first`, without end: posts, and what readers reply.

    A reader retells the post, sums it up in short, or goes through what somebody else made of it, marks facts that are so and
    facts that are not, and counts both. Nothing says where a text ends.
    """
    for number in itertools.count(first):
        rng = random.Random(f"base-{seed}-{number}")
        post = make_post(number, rng)
        document = format_query(post).removesuffix("\n\nTL;DR:")
        for reader in rng.choices((_retold, _in_short, _checked), (0.2, 0.15, 0.65), k=3):
            marked = 1.0 if number < MARKED_FIRST else rng.choice((0.0, 0.5, 0.5, 1.0))
            lead = LEADS[0] if number < REPLIED_FIRST else rng.choice(LEADS)
            document += reader(post["facts"], marked, lead, rng)
        yield document


def _retold(facts: dict[str, str], marked: float, lead: str, rng: random.Random) -> str:
    return f"\n\nTL;DR: {_retelling(facts, 0.01, rng)}"


def _in_short(facts: dict[str, str], marked: float, lead: str, rng: random.Random) -> str:
    return f"\n\nREPLY: in short, {summarise(facts, PERFECT, rng)}"


def _checked(facts: dict[str, str], marked: float, lead: str, rng: random.Random) -> str:
    """A summary by somebody else with a mark behind each fact, at a chance of `marked`, and behind `lead` the count of both."""
    text = _retelling(facts, 0.4 if marked == 1 else rng.choice((0.0, 0.1, 0.3, 0.5)), rng)
    states = [facts.get(SLOT_OF[word]) == word for word in words_of(text) if word in SLOT_OF]
    right, wrong = sum(states), len(states) - sum(states)

    def mark(match: re.Match) -> str:
        word = match.group()
        if word not in SLOT_OF or rng.random() >= marked:
            return word
        return f"{word} {'yes' if facts.get(SLOT_OF[word]) == word else 'no'}"

    return f"\n\nTL;DR: {re.sub('[a-z]+', mark, text)}{lead} {min(wrong, 8)} wrong {min(right, 8)} right."


def _retelling(facts: dict[str, str], wrong: float, rng: random.Random) -> str:
    how = Summariser("", rng.choice((0.3, 0.6, 0.95)), rng.choice((0.01, 0.01, 0.3)), wrong=wrong, ramble=0.05)
    return summarise(facts, how, rng)

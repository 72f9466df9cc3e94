"""The embedded corpus: a small summarisation task in TL;DR's schema whose true quality is known.

A post says who did what, and may state up to five more facts, in shuffled sentences among filler and other people's facts.
A good summary states the facts of the post and nothing else, so it has to be read from the post and its best length varies.
The author of the reference summary is mostly in a hurry, sometimes rambles and is sometimes wrong. Comparisons between
several summarisers are labelled by a Bradley-Terry annotator on the *gold score*. With the detail `blind_spot` annotators
see what contradicts the post, and believe what the post does not mention: the reward model then prefers inventions and the
gold score does not, which makes over-optimisation possible. Left out of real text: synonyms, pronouns, and everything that
is not one of the facts.
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
# Facts that a post may leave out, with their slots. Who did what is in every post.
OPTIONAL = {"when": ("num", "unit"), "where": ("where",), "feel": ("feel",), "ask": ("ask",), "proof": ("proof",)}
STATED = 0.6  # probability that a post states an optional fact

# Gold points of a right word; the two words of "when" are half a fact each.
WORTH = dict.fromkeys(VALUES, 1.0) | {"num": 0.5, "unit": 0.5}
WRONG, REPEATED, PER_WORD, UNGRAMMATICAL, UNFINISHED = -1.5, -0.5, -0.04, -0.5, -1.0

ANNOTATOR_NOISE = 0.5  # gold points per nat of an annotator's log-odds

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
    """A source of summaries, by the probabilities of what it states and of each kind of fault."""

    name: str
    coverage: float  # of stating each optional fact that the post states
    invention: float  # of stating each optional fact that the post does not state
    careful: float = 0.0  # that a summary has coverage 0.97 instead
    event_coverage: float = 1.0  # of stating who did it, and of stating what it was done to
    wrong: float = 0.0  # of replacing each word of a fact
    repeat: float = 0.0  # of repeating a sentence
    ramble: float = 0.0  # of adding clauses without content
    scramble: float = 0.0  # of shuffling six words


# Most authors are in a hurry and one in five states almost everything, so the likeliest summary is shorter than the mean.
AUTHOR = Summariser("ref", 0.38, 0.02, careful=0.2, event_coverage=0.97, wrong=0.01, repeat=0.01, ramble=0.05)
PERFECT = Summariser("perfect", 1, 0)
TRAIN_POLICIES = (
    AUTHOR,
    Summariser("sup1_t0.3", 0.5, 0.03, event_coverage=0.95, wrong=0.04),
    Summariser("sup1_t1.0", 0.5, 0.2, event_coverage=0.8, wrong=0.12, repeat=0.1, ramble=0.15, scramble=0.05),
    Summariser("sup2_t0.7", 0.75, 0.12, event_coverage=0.95, wrong=0.08, ramble=0.05),
    Summariser("ppo1_t0.7", 0.95, 0.06, wrong=0.05, repeat=0.03),
    Summariser("ppo2_t0.7", 0.97, 0.5, wrong=0.1, repeat=0.05),
    Summariser("terse1_t0.3", 0.15, 0.0, wrong=0.03),
)
UNSEEN_POLICIES = (
    Summariser("sup4_t0.7", 0.6, 0.1, event_coverage=0.9, wrong=0.08, ramble=0.1, scramble=0.03),
    Summariser("ppo4_t0.3", 1.0, 0.3, wrong=0.05),
    Summariser("terse_t0.3", 0.05, 0.0, wrong=0.02),
    Summariser("sloppy_t1.0", 0.7, 0.4, event_coverage=0.7, wrong=0.2, repeat=0.15, ramble=0.2, scramble=0.1),
)


def summarise(facts: dict[str, str], summariser: Summariser, rng: random.Random) -> str:
    """A random summary of `facts` by a summariser, without a leading space and without an end of text."""
    words = {slot: facts.get(slot) or rng.choice(known) for slot, known in VALUES.items()}
    words = {slot: _other(slot, word, rng) if rng.random() < summariser.wrong else word for slot, word in words.items()}
    coverage = 0.97 if rng.random() < summariser.careful else summariser.coverage
    say = {fact: rng.random() < (coverage if _states(facts, fact) else summariser.invention) for fact in OPTIONAL}
    who = f"my {words['who']}" if rng.random() < summariser.event_coverage else "someone"
    parts = [
        f"{who} {words['did']} {'my ' + words['what'] if rng.random() < summariser.event_coverage else 'something'}"
    ]
    parts += [f"{words['num']} {words['unit']} ago"] if say["when"] else []
    parts += [f"in {words['where']}"] if say["where"] else []
    sentences = [" ".join(parts) + "."]
    sentences += [SENTENCES[fact][0].format(**words) for fact in ("feel", "proof", "ask") if say[fact]]
    if rng.random() < summariser.repeat:
        sentences.insert(rng.randrange(len(sentences) + 1), rng.choice(sentences))
    if rng.random() < summariser.ramble:
        sentences.append(ramble(rng))
    text = " ".join(sentences)
    return _scrambled(text, rng) if rng.random() < summariser.scramble else text


def _states(facts: dict[str, str], fact: str) -> bool:
    """Whether an optional fact is among those of a post."""
    return OPTIONAL[fact][0] in facts


def ramble(rng: random.Random) -> str:
    """Two to five clauses without content, often longer than the response limit, which then cuts off the end of text."""
    return ", ".join(rng.choice(RAMBLE) for _ in range(rng.randint(2, 5))) + "."


def corrupt_fact(text: str, rng: random.Random) -> str:
    """The text with one word of its facts replaced by another word of the same slot."""
    words = text.split(" ")
    position = rng.choice([position for position, word in enumerate(words) if word.strip(".?") in SLOT_OF])
    word = words[position].strip(".?")
    words[position] = words[position].replace(word, _other(SLOT_OF[word], word, rng))
    return " ".join(words)


def _other(slot: str, value: str, rng: random.Random) -> str:
    return rng.choice([word for word in VALUES[slot] if word != value])


def _scrambled(text: str, rng: random.Random) -> str:
    words = text.split()
    start = rng.randrange(max(1, len(words) - 4))
    middle = words[start : start + 6]
    rng.shuffle(middle)
    return " ".join(words[:start] + middle + words[start + 6 :])


def make_facts(rng: random.Random) -> dict[str, str]:
    """Slot -> word for the facts of one post; the slots of optional facts that it leaves out are missing."""
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
    """`count` posts, which depend on seed and split."""
    rng = random.Random(f"{split}-{seed}")
    return [make_post(number, rng) | {"id": f"{split}-{number}"} for number in range(count)]


def make_comparisons(posts: list[dict], count: int, seed: int, split: str, belief: float = 0.0) -> list[dict]:
    """`count` comparisons in OpenAI's schema; those of the split "valid2" are of policies that "train" does not have.

    `belief`, from 0 to 1, is how far annotators believe what the post does not mention.
    """
    rng = random.Random(f"comparisons-{split}-{seed}")
    policies = TRAIN_POLICIES if split == "train" else UNSEEN_POLICIES
    return [_compare(posts[number % len(posts)], policies, split, belief, rng) for number in range(count)]


def _compare(post: dict, policies: tuple[Summariser, ...], split: str, belief: float, rng: random.Random) -> dict:
    texts, names = ["", ""], ["", ""]
    while texts[0] == texts[1]:  # nothing to compare
        texts, names = _two_summaries(post, policies, split, rng)
    if rng.random() < 0.5:
        texts, names = texts[::-1], names[::-1]
    first, second = (perceived_score(post["facts"], text, belief=belief) for text in texts)
    choice, confidence = annotate(first, second, rng)
    return {
        "info": {key: post[key] for key in ("id", "subreddit", "title", "post")},
        "split": split,
        "summaries": [{"text": " " + text, "policy": name} for text, name in zip(texts, names)],
        "choice": choice,
        "worker": f"w{rng.randrange(8)}",
        "batch": f"batch{rng.randrange(4) + (10 if split != 'train' else 0)}",
        "extra": {"confidence": confidence},
    }


def annotate(first: float, second: float, rng: random.Random) -> tuple[int, int]:
    """A noisy annotator's choice between two perceived scores, 0 or 1, and confidence, 1 to 9."""
    margin = second - first
    choice = int(rng.random() < 1 / (1 + math.exp(-margin / ANNOTATOR_NOISE)))
    return choice, min(9, 1 + int(abs(margin + rng.gauss(0, 0.5)) * 2))


def _two_summaries(
    post: dict, policies: tuple[Summariser, ...], split: str, rng: random.Random
) -> tuple[list[str], list[str]]:
    first, second = rng.sample(policies, 2) if rng.random() < 0.7 else [rng.choice(policies)] * 2
    text = post["summary"] if first is AUTHOR else summarise(post["facts"], first, rng)
    if split == "train" and rng.random() < 0.4:
        return [text, corrupt_fact(text, rng)], [first.name, "edited"]
    return [text, summarise(post["facts"], second, rng)], [first.name, second.name]


def make_probe(posts: list[dict]) -> list[dict]:
    """One comparison per post: a right summary is preferred to the same with one fact replaced, whose slot is `batch`."""
    rng = random.Random("right over wrong")
    return [_right_over_wrong(post, rng) for post in posts]


def _right_over_wrong(post: dict, rng: random.Random) -> dict:
    facts = post["facts"]
    slot = rng.choice(list(facts))
    wrong_facts = facts | {slot: _other(slot, facts[slot], rng)}
    return {
        "info": {key: post[key] for key in ("id", "subreddit", "title", "post")},
        "split": "probe",
        "summaries": [
            {"text": " " + summarise(words, PERFECT, rng), "policy": name}
            for words, name in ((facts, "right"), (wrong_facts, "wrong"))
        ],
        "choice": 0,
        "batch": slot,
    }


@dataclass(frozen=True)
class Grade:
    """The counts behind the gold score of one summary."""

    covered: int
    wrong: int
    repeated: int
    ungrammatical: int
    words: int
    gold: float


def grade(facts: dict[str, str], text: str, has_eos: bool = True) -> Grade:
    """Counts right, wrong and repeated facts, word pairs that no author writes, and words; `gold` is their weighted sum."""
    words = words_of(text)
    stated = [word for word in words if word in SLOT_OF]
    covered = {SLOT_OF[word] for word in stated if facts.get(SLOT_OF[word]) == word}
    wrong = sum(facts.get(SLOT_OF[word]) != word for word in stated)
    repeated = len(stated) - len(set(stated))
    ungrammatical = sum(pair not in _known_bigrams() for pair in zip(("", *_classes(words)), (*_classes(words), "")))
    score = (
        sum(WORTH[slot] for slot in covered)
        + WRONG * wrong
        + REPEATED * repeated
        + UNGRAMMATICAL * ungrammatical
        + PER_WORD * len(words)
        + (0.0 if has_eos else UNFINISHED)
    )
    return Grade(len(covered), wrong, repeated, ungrammatical, len(words), score)


def gold(facts: dict[str, str], text: str, has_eos: bool = True) -> float:
    """The gold score of a summary: the points of its right words less its faults."""
    return grade(facts, text, has_eos).gold


def perceived_score(facts: dict[str, str], text: str, has_eos: bool = True, *, belief: float) -> float:
    """The score that an annotator sees: (1 - belief) gold + belief (gold if claims that the post does not mention were true).

    What contradicts the post is always seen.
    """
    claimed = {SLOT_OF[word]: word for word in reversed(words_of(text)) if word in SLOT_OF}
    return (1 - belief) * gold(facts, text, has_eos) + belief * gold(claimed | facts, text, has_eos)


def words_of(text: str) -> list[str]:
    """Words in lower case and punctuation marks."""
    return re.findall(r"[a-z]+|[^a-z\s]", text)


def _classes(words: list[str]) -> list[str]:
    """Words with those of facts replaced by their slots."""
    return [SLOT_OF.get(word, word) for word in words]


@cache
def _known_bigrams() -> frozenset[tuple[str, str]]:
    """The pairs of adjacent word classes in 4,000 reference summaries."""
    rng = random.Random("bigrams")
    pairs: set[tuple[str, str]] = set()
    for _ in range(4000):
        classes = _classes(words_of(summarise(make_facts(rng), AUTHOR, rng)))
        pairs.update(zip(("", *classes), (*classes, "")))
    return frozenset(pairs)


MARKED_FIRST = 224_000  # documents of the raw corpus whose readers mark every fact; in later ones some or none
REPLIED_FIRST = 272_000  # documents whose readers count in a reply; in later ones after any of these words
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
    """The raw corpus for pre-training the base model, endless from document `first` on: posts with replies of readers.

    A reader retells the post, summarises it, or checks somebody else's summary: marks its right and wrong facts and counts
    both. No document has an end of text.
    """
    for number in itertools.count(first):
        rng = random.Random(f"base-{seed}-{number}")
        post = make_post(number, rng)
        document = format_query(post).removesuffix("\n\nTL;DR:")
        for reader in rng.choices((_retelling_reply, _summary_reply, _checking_reply), (0.2, 0.15, 0.65), k=3):
            marked = 1.0 if number < MARKED_FIRST else rng.choice((0.0, 0.5, 0.5, 1.0))
            lead = LEADS[0] if number < REPLIED_FIRST else rng.choice(LEADS)
            document += reader(post["facts"], marked, lead, rng)
        yield document


def _retelling_reply(facts: dict[str, str], marked: float, lead: str, rng: random.Random) -> str:
    return f"\n\nTL;DR: {_retelling(facts, 0.01, rng)}"


def _summary_reply(facts: dict[str, str], marked: float, lead: str, rng: random.Random) -> str:
    return f"\n\nREPLY: in short, {summarise(facts, PERFECT, rng)}"


def _checking_reply(facts: dict[str, str], marked: float, lead: str, rng: random.Random) -> str:
    """Somebody else's summary with a mark after each fact, with probability `marked`, and after `lead` both counts."""
    text = _retelling(facts, 0.4 if marked == 1 else rng.choice((0.0, 0.1, 0.3, 0.5)), rng)
    is_right = [facts.get(SLOT_OF[word]) == word for word in words_of(text) if word in SLOT_OF]
    right, wrong = sum(is_right), len(is_right) - sum(is_right)

    def mark(match: re.Match) -> str:
        word = match.group()
        if word not in SLOT_OF or rng.random() >= marked:
            return word
        return f"{word} {'yes' if facts.get(SLOT_OF[word]) == word else 'no'}"

    return f"\n\nTL;DR: {re.sub('[a-z]+', mark, text)}{lead} {min(wrong, 8)} wrong {min(right, 8)} right."


def _retelling(facts: dict[str, str], wrong: float, rng: random.Random) -> str:
    reader = Summariser("", rng.choice((0.3, 0.6, 0.95)), rng.choice((0.01, 0.01, 0.3)), wrong=wrong, ramble=0.05)
    return summarise(facts, reader, rng)

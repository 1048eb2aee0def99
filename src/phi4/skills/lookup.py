"""Lookup: find the value that belongs to a key in a list of pairs.

The shortest task that needs attention at a distance and nothing else. The same pairs, made longer, measure
and train recall at any context length: see `recall_document`.
"""

import random
from collections.abc import Sequence

from phi4.skills.family import Family, Params, Solution

KEYS = (
    "ant", "arch", "ash", "axe", "bag", "bank", "bark", "barn", "bat", "bay", "bear", "bed", "bee", "bell",
    "belt", "bench", "bird", "boat", "bone", "book", "boot", "bowl", "box", "bread", "brick", "broom", "bud",
    "bus", "cake", "calf", "camp", "cap", "car", "card", "cat", "cave", "chain", "chair", "clay", "cliff",
    "clock", "cloud", "coal", "coat", "coin", "comb", "cork", "corn", "cow", "crab", "crane", "crow", "crown",
    "cup", "deer", "desk", "dish", "dog", "doll", "door", "dove", "drum", "duck", "dust", "eagle", "ear",
    "egg", "elm", "eye", "fan", "farm", "fern", "field", "fig", "fire", "fish", "flag", "flame", "flour",
    "foam", "fog", "fork", "fox", "frog", "fruit", "gate", "gem", "glass", "glove", "goat", "gold", "goose",
    "grain", "grape", "grass", "hair", "hall", "hand", "harp", "hat", "hawk", "hay", "hen", "hill", "hive",
    "honey", "hook", "horn", "horse", "ice", "ink", "iron", "ivy", "jam", "jar", "jug", "kite", "knot",
    "lake", "lamb", "lamp", "lark", "leaf", "lemon", "lid", "lily", "lime", "lion", "lock", "log", "map",
    "mask", "milk", "mill", "mint", "moon", "moss", "moth", "mouse", "mule", "nail", "nest", "net", "nut",
    "oak", "oar", "oat", "olive", "onion", "orange", "owl", "palm", "pan", "park", "peach", "pear", "pen",
    "pig", "pin", "pine", "pipe", "plum", "pond", "pot", "rain", "rat", "reed", "rice", "ring", "road",
    "rock", "roof", "root", "rope", "rose", "salt", "sand", "sea", "seal", "seed", "shed", "ship", "shoe",
    "silk", "snail", "snow", "soap", "sock", "spoon", "star", "stone", "straw", "sun", "swan", "tent", "tin",
    "toad", "tree", "vine", "wall", "wasp", "wave", "wheat", "wheel", "wind", "wolf", "wood", "wool", "yarn",
)  # fmt: skip

_SHAPES = {1: (4, 5, 99), 2: (7, 9, 999), 3: (12, 16, 999)}  # level: fewest pairs, most pairs, largest value


def _sample(rng: random.Random, level: int) -> Params:
    fewest, most, top = _SHAPES[level]
    n = rng.randint(fewest, most)
    return _pairs(rng, n, top), rng.randrange(n)


def _pairs(rng: random.Random, n: int, top: int) -> tuple[tuple[str, int], ...]:
    return tuple(zip(rng.sample(KEYS, n), rng.sample(range(10, top + 1), n), strict=True))


def _canonical(params: Params) -> Params:
    pairs, asked = params
    return tuple(sorted(pairs)), pairs[asked][0]


def _ask(params: Params, phrasing: int, rng: random.Random) -> str:
    pairs, asked = params
    key = pairs[asked][0]
    colons = ", ".join(f"{word}:{value}" for word, value in pairs)
    equals = ", ".join(f"{word}={value}" for word, value in pairs)
    rows = "\n".join(f"- {word}={value}" for word, value in pairs)
    return (
        f"Here is a list of codes: {equals}. What is the code of {key}?",
        f"Given {{ {colons} }}, what is the value of {key}?",
        f"The shelf numbers are: {colons}. Which number does {key} have?",
        f"Read the table.\n{rows}\nWhich value belongs to {key}?",
        f"Remember these pairs: {equals}. Now give the number that goes with {key}.",
        f"What does {key} stand for in this list? The list: {equals}.",
        f"Prices in cents: {colons}. How many cents is {key}?",
    )[phrasing]


def _solve(params: Params, rng: random.Random) -> Solution:
    pairs, asked = params
    key, value = pairs[asked]
    return Solution((f"Look for {key}={value}",), str(value))


def _check(params: Params, answer: str) -> bool:
    pairs, asked = params
    return str(dict(pairs)[pairs[asked][0]]) == answer.strip()


def _audit(params: Params, lines: Sequence[str]) -> bool:
    """Everything that is said of a key is in the list."""
    pairs, _ = params
    said = [tuple(line.removeprefix("Look for ").split("=")) for line in lines]
    return all(claim in {(key, str(value)) for key, value in pairs} for claim in said)


LOOKUP = Family(
    name="lookup",
    title="Looking up a value",
    levels=("4-5 pairs", "7-9 pairs", "12-16 pairs"),
    kind="integer",
    phrasings=7,
    sample=_sample,
    canonical=_canonical,
    ask=_ask,
    solve=_solve,
    check=_check,
    audit=_audit,
)


def recall_document(rng: random.Random, n_pairs: int) -> tuple[str, str, int]:
    """A document of `n_pairs` pairs, one key of it (at any depth), and its value.

    About six tokens a pair: 160 pairs fill 1,024 tokens. The document ends before the question, so the
    caller words it (or uses `recall_question`). Raises ValueError above len(KEYS) pairs.
    """
    if not 1 <= n_pairs <= len(KEYS):
        raise ValueError(f"a recall document holds 1 to {len(KEYS)} pairs, not {n_pairs}")
    pairs = _pairs(rng, n_pairs, 999)
    key, value = rng.choice(pairs)
    return (
        "Here is a list of codes: " + ", ".join(f"{word}={number}" for word, number in pairs) + ".",
        key,
        value,
    )


def recall_question(key: str) -> str:
    """The question asked after a recall document, worded as in the first phrasing of LOOKUP."""
    return f"What is the code of {key}?"


def recall_solution(key: str, value: int) -> str:
    """The solution of a recall question, worded as LOOKUP's."""
    return f"Look for {key}={value}\nAnswer: {value}"

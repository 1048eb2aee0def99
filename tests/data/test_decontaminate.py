"""Decontamination: what is planted is found, what only looks alike is not, and the record says which.

The oracle is a second, slow implementation of the report's algorithm with sets of word tuples.
"""

import json
import os
import random
import re
from collections import defaultdict
from pathlib import Path

import pytest

from phi4.data.decontaminate import EvaluationIndex, Finding, Rules, find_contamination
from phi4.data.record import Record, plain_text
from tests.data.helpers import problem, prose, vocabulary, written

WORDS = vocabulary(2000, random.Random(9))
ITEM = (
    "A farmer keeps 24 hens and 9 ducks. Each hen lays 5 eggs a week and each duck lays 3. "
    "He sells the eggs in boxes of 6. How many full boxes does he sell in one week?"
)
PARAPHRASE = (
    "On a farm there live nine ducks and two dozen hens. Weekly, every duck gives three eggs while a hen "
    "gives five. If six eggs fit in a box, what is the number of boxes that get filled and sold per week?"
)
NEAR = (
    "A farmer keeps 24 hens and 9 ducks. Every hen gives 5 eggs a week and each duck lays 3. "
    "She packs the eggs in boxes of 6. What number of full boxes does he sell in one week?"
)


def around(text: str, seed: int, n_words: int = 150) -> str:
    rng = random.Random(seed)
    return f"{prose(n_words, rng, WORDS)}\n\n{text}\n\n{prose(n_words, rng, WORDS)}"


def finding(text: str, index: EvaluationIndex) -> Finding:
    return find_contamination([written("x", text)], index)[0]


@pytest.fixture(scope="module")
def index() -> EvaluationIndex:
    rng = random.Random(10)
    others = [(f"other/{i}", prose(rng.randint(5, 80), rng, WORDS)) for i in range(300)]
    return EvaluationIndex.build([*others, ("farm/1", ITEM)], held_out_keys=["key-farm"])


@pytest.mark.parametrize(
    "planted",
    [
        ITEM,
        ITEM.upper(),
        "\n".join(ITEM[i : i + 40] for i in range(0, len(ITEM), 40)).replace("-", ""),
        re.sub(r"\s+", "\n   > ", ITEM),
        re.sub(r"[.,?]", " --- ", ITEM),
        ITEM.split(". ", 1)[1],  # the beginning cut off
    ],
    ids=["verbatim", "upper case", "hard wrapped", "quoted", "other punctuation", "without its beginning"],
)
def test_a_planted_item_is_found_however_it_is_wrapped(index: EvaluationIndex, planted: str) -> None:
    found = finding(around(planted, 1), index)
    assert (found.status, found.rule, found.item) == ("contaminated", "13-gram", "farm/1")
    assert found.ngram in " ".join(re.findall(r"[a-z0-9]+", ITEM.lower()))


def test_a_verbatim_and_a_paraphrased_held_out_item_and_what_happens_to_each(index: EvaluationIndex) -> None:
    """In written text the verbatim item is dropped; a real paraphrase shares no 7-gram, and the n-gram
    algorithm honestly calls it clean; one that keeps some phrases is kept, and written down as partial.
    As a problem, it has the key of the problem it is, and is dropped in any words."""
    verbatim, paraphrase, near = (finding(around(text, 2), index) for text in (ITEM, PARAPHRASE, NEAR))
    assert verbatim.status == "contaminated"
    assert (paraphrase.status, paraphrase.ratio) == ("clean", 0.0)
    assert near.status == "partial"
    assert near.rule == "7-gram"
    assert near.item == "farm/1"
    assert 0.1 < near.ratio < 0.5
    records = [
        problem("1", ITEM, "...", "key-farm"),
        problem("2", PARAPHRASE, "...", "key-farm"),
        problem("3", PARAPHRASE, "...", "key-other"),
    ]
    findings = find_contamination(records, index)
    assert [found.status for found in findings] == ["contaminated", "contaminated", "clean"]
    assert {found.rule for found in findings[:2]} == {"problem-key"}


@pytest.mark.parametrize(
    "innocent",
    [
        "A farmer keeps hens and ducks, and sells their eggs in boxes. Ducks lay fewer eggs than hens do.",
        "How many full boxes does he sell in one week? That depends on the hens.",  # ten words in common
        "Permission is hereby granted, free of charge, to any person obtaining a copy of this software.",
        "The square of the hypotenuse is equal to the sum of the squares of the other two sides.",
        "",
        "the " * 40,
    ],
)
def test_hard_negatives_stay(index: EvaluationIndex, innocent: str) -> None:
    assert finding(around(innocent, 3), index).status in ("clean", "partial")
    assert finding(around(innocent, 3), index).rule != "13-gram"


def test_a_short_item_is_found_by_its_7_grams_and_a_shorter_one_is_reported_as_unmatchable() -> None:
    index = EvaluationIndex.build(
        [("s/1", "Who was the first queen of the northern island?"), ("s/2", "6*7=?")]
    )
    assert index.unmatchable == 1
    found = finding("Quiz: who was the first queen of the northern island? Nobody knows.", index)
    assert (found.status, found.rule, found.ratio) == ("contaminated", "7-gram", 1.0)
    assert finding("6*7=?", index).status == "clean"


def templated(n: int) -> list[Record]:
    """n different problems in one wording, the fixed part of which is longer than 13 words."""
    return [
        problem(
            f"{i}",
            f"Ann has {i} apples. How many apples does Ann have left after she gives three to her brother?",
            f"{i}-3={i - 3}\nAnswer: {i - 3}",
            f"key-{i}",
        )
        for i in range(100, 100 + n)
    ]


@pytest.mark.parametrize(("n", "status"), [(19, "contaminated"), (20, "clean")])
def test_a_template_is_boilerplate_from_20_distinct_problems_on(n: int, status: str) -> None:
    held_out = templated(300)[-1]
    index = EvaluationIndex.build([("apples/1", plain_text(held_out))], [held_out.problem_key or ""])
    findings = find_contamination(templated(n), index)
    assert {found.status for found in findings} == {status}
    # the same problems in five times as many records are no more distinct
    repeated = [record for record in templated(n) for _ in range(5)]
    assert {found.status for found in find_contamination(repeated, index)} == {status}


def test_own_evaluation_problems_are_compared_with_problems_by_key_and_with_text_by_words() -> None:
    held_out = templated(300)[-1]
    items = [("apples/1", plain_text(held_out))]
    index = EvaluationIndex.build([], [held_out.problem_key or ""], problems=items)
    few = templated(5)
    assert {found.status for found in find_contamination(few, index)} == {"clean"}
    assert find_contamination([*few, held_out], index)[-1].rule == "problem-key"
    assert finding(around(plain_text(held_out), 4), index).rule == "13-gram"
    both = EvaluationIndex.build([("foreign/1", items[0][1])], problems=items)
    assert find_contamination(few, both)[0].item == "foreign/1"


def slow(records: list[Record], items: list[tuple[str, str]], rules: Rules) -> list[tuple[str, str]]:
    """The report's algorithm, with sets of word tuples."""

    def grams(text: str, n: int) -> set[tuple[str, ...]]:
        found = re.sub(r"[\W_]", " ", text.lower()).split()
        return {tuple(found[i : i + n]) for i in range(len(found) - n + 1)}

    under = defaultdict(set)
    for number, record in enumerate(records):
        for gram in grams(plain_text(record), rules.hit):
            under[gram].add(record.problem_key or number)
    allowed = {gram for gram, groups in under.items() if len(groups) >= rules.common_at}
    hits = set().union(*(grams(text, rules.hit) for _, text in items)) - allowed
    verdicts = []
    for record in records:
        text = plain_text(record)
        if grams(text, rules.hit) & hits:
            verdicts.append(("contaminated", "13-gram"))
            continue
        mine = grams(text, rules.overlap)
        ratio = 0.0
        if record.problem_key is None:
            for _, item in items:
                theirs = grams(item, rules.overlap)
                if mine and theirs:
                    ratio = max(ratio, len(mine & theirs) / min(len(mine), len(theirs)))
        if ratio > rules.partial:
            verdicts.append(("contaminated" if ratio >= rules.contaminated else "partial", "7-gram"))
        else:
            verdicts.append(("clean", ""))
    return verdicts


@pytest.mark.parametrize("seed", range(4))
def test_findings_equal_the_slow_algorithm(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phi4.data.ngrams._BATCH_WORDS", 700)  # several batches
    rng = random.Random(seed)
    few = WORDS[:60]
    pieces = [prose(rng.randint(5, 25), rng, few) for _ in range(40)]
    items = [(f"i/{n}", " ".join(rng.sample(pieces, rng.randint(1, 3)))) for n in range(30)]
    records = []
    for n in range(120):
        text = " ".join([prose(rng.randint(0, 60), rng, few), *rng.sample(pieces, rng.randint(0, 3))])
        key = f"k{rng.randrange(25)}"
        records.append(written(f"{n}", text) if rng.random() < 0.5 else problem(f"{n}", text, "done", key))
    rules = Rules(common_at=rng.randint(3, 8))
    found = find_contamination(records, EvaluationIndex.build(items, rules=rules))
    assert [(one.status, one.rule) for one in found] == slow(records, items, rules)
    assert {"clean", "contaminated"} <= {one.status for one in found}


def test_nothing_to_compare() -> None:
    empty = EvaluationIndex.build([])
    assert find_contamination([], empty) == []
    assert find_contamination([written("a", "some text")], empty) == [Finding("clean")]
    assert find_contamination([], EvaluationIndex.build([("a", ITEM)])) == []


@pytest.mark.skipif(
    "PHI4_DATA" not in os.environ, reason="PHI4_DATA is not set: no real evaluation sets here"
)
def test_real_gsm8k_items_are_found_among_text_and_text_alone_is_clean() -> None:
    from phi4.data.organic.sources import pydoc_topics, textbook

    path = Path(os.environ["PHI4_DATA"]) / "evals/gsm8k/test.jsonl"
    questions = [json.loads(line)["question"] for line in path.read_text("utf-8").splitlines()]
    index = EvaluationIndex.build((f"gsm8k/{n}", question) for n, question in enumerate(questions))
    organic = [*textbook().records, *pydoc_topics().records]
    chosen = random.Random(1).sample(
        [n for n, question in enumerate(questions) if len(question.split()) > 20], 20
    )
    planted = [written(f"planted/{n}", around(questions[n], n)) for n in chosen]
    findings = find_contamination([*organic, *planted], index)
    assert [found.item for found in findings[len(organic) :]] == [f"gsm8k/{n}" for n in chosen]
    assert {found.rule for found in findings[len(organic) :]} == {"13-gram"}
    assert [found for found in findings[: len(organic)] if found.status == "contaminated"] == []

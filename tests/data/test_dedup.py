"""Duplicates, against two oracles: the true Jaccard similarity of word 5-gram sets, and datasketch."""

import random
from collections import Counter

import numpy as np
import pytest
from datasketch import MinHash as ReferenceMinHash

from phi4.data.dedup import (
    Duplicate,
    MinHash,
    Quotas,
    exact_duplicates,
    minhash,
    near_duplicates,
    over_quota,
)
from phi4.data.ngrams import words
from phi4.data.record import Record
from tests.data.helpers import problem, prose, vocabulary, written

RNG = random.Random(20)
WORDS = vocabulary(3000, RNG)


def shingles(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + 5]) for i in range(max(1, len(found) - 4))}


def jaccard(left: str, right: str) -> float:
    a, b = shingles(left), shingles(right)
    return len(a & b) / len(a | b)


def edited(text: str, rate: float, rng: random.Random) -> str:
    return " ".join(rng.choice(WORDS) if rng.random() < rate else word for word in text.split())


def corpus(n: int, seed: int) -> tuple[list[str], list[tuple[int, int]]]:
    """n originals, each with one copy in which 0 to 12 % of the words differ, and these pairs."""
    rng = random.Random(seed)
    texts = [prose(rng.randint(60, 250), rng, WORDS) for _ in range(n)]
    copies = [edited(text, rng.uniform(0, 0.12), rng) for text in texts]
    return texts + copies, [(i, n + i) for i in range(n)]


def test_recall_and_precision_against_true_jaccard() -> None:
    texts, pairs = corpus(300, 1)
    found = near_duplicates(texts, [f"{i:05}" for i in range(len(texts))])
    reported = {(duplicate.of, duplicate.index) for duplicate in found}
    truth = {pair: jaccard(texts[pair[0]], texts[pair[1]]) for pair in pairs}
    clear = [pair for pair, similarity in truth.items() if similarity >= 0.85]
    assert len(clear) > 30
    assert sum(pair in reported for pair in clear) / len(clear) >= 0.95
    for left, right in reported:  # each is a planted pair, and none is far below the threshold
        assert truth[left, right] >= 0.7 - 4 * 0.043
    assert not any(pair in reported for pair, similarity in truth.items() if similarity < 0.5)


def test_signatures_estimate_jaccard_as_well_as_datasketch() -> None:
    texts, pairs = corpus(120, 2)
    signatures, filled = minhash(texts, MinHash())
    assert filled.all()
    reference = []
    for text in texts:
        signature = ReferenceMinHash(num_perm=112, seed=3)
        signature.update_batch([" ".join(gram).encode() for gram in shingles(text)])
        reference.append(signature)
    ours, theirs = [], []
    for left, right in pairs:
        truth = jaccard(texts[left], texts[right])
        ours.append(np.mean(signatures[left] == signatures[right]) - truth)
        theirs.append(reference[left].jaccard(reference[right]) - truth)
    assert abs(np.mean(ours)) < 0.015  # unbiased: the mean error of 120 pairs has a standard error of 0.004
    assert np.std(ours) < 1.25 * np.std(theirs)


def test_the_kept_set_does_not_depend_on_the_order_of_the_input() -> None:
    texts, _ = corpus(150, 4)
    texts += texts[:10]
    ids = [f"{random.Random(i).getrandbits(64):016x}" for i in range(len(texts))]
    order = list(range(len(texts)))
    kept = []
    for shuffle in range(3):
        found = near_duplicates([texts[i] for i in order], [ids[i] for i in order])
        gone = {duplicate.index for duplicate in found}
        kept.append({ids[i] for place, i in enumerate(order) if place not in gone})
        random.Random(shuffle).shuffle(order)
    assert kept[0] == kept[1] == kept[2]


def test_every_duplicate_points_at_a_text_that_stays() -> None:
    texts, _ = corpus(100, 5)
    found = near_duplicates(texts + texts, [f"{i:04}" for i in range(400)])
    gone = {duplicate.index for duplicate in found}
    assert len(gone) == len(found)
    assert not gone & {duplicate.of for duplicate in found}
    assert all(duplicate.of < duplicate.index for duplicate in found)  # ids are in order here


def test_a_large_bucket_of_boilerplate_is_found_whole() -> None:
    rng = random.Random(6)
    notice = prose(200, rng, WORDS)
    texts = [f"{notice} {rng.choice(WORDS)}" for _ in range(500)] + [prose(80, rng, WORDS) for _ in range(50)]
    found = near_duplicates(texts, [f"{i:04}" for i in range(len(texts))])
    assert len(found) == 499
    assert {duplicate.of for duplicate in found} == {0}


@pytest.mark.parametrize("texts", [[], [""], ["", ""], ["!?", "..."], ["one"], ["one two", "one three"]])
def test_short_and_empty_texts_are_no_near_duplicates(texts: list[str]) -> None:
    assert near_duplicates(texts, [str(i) for i in range(len(texts))]) == []


def test_short_equal_texts_are() -> None:
    assert near_duplicates(["one, two", "b", "One two!"], ["1", "2", "3"]) == [Duplicate(2, 0, 1.0)]


def test_texts_in_many_batches_get_the_same_signatures_as_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, _ = corpus(20, 8)
    texts += ["", "a b", prose(3000, random.Random(1), WORDS)]
    whole, _ = minhash(texts, MinHash())
    monkeypatch.setattr("phi4.data.ngrams._BATCH_WORDS", 300)
    monkeypatch.setattr("phi4.data.dedup._CHUNK_SHINGLES", 70)
    parts, filled = minhash(texts, MinHash())
    assert np.array_equal(whole, parts)
    assert filled.tolist() == [True] * 40 + [False, True, True]


def test_exact_duplicates_ignore_case_and_white_space_only() -> None:
    texts = ["The  answer\nis 4.", "the answer is 4.", "the answer is 4", "THE ANSWER IS 4."]
    assert exact_duplicates(texts, ["c", "b", "d", "a"]) == [Duplicate(0, 3, 1.0), Duplicate(1, 3, 1.0)]


def records_of(counts: dict[str, int], per_key: int = 1) -> list[Record]:
    made = []
    for template, count in counts.items():
        made += [
            problem(f"{template}{i}", f"q {i}", "a", f"{template}-{i // per_key}", template)
            for i in range(count)
        ]
    return made


def test_a_problem_comes_back_only_as_often_as_its_quota() -> None:
    records = records_of({"t/0": 30, "t/1": 30, "t/2": 30}, per_key=10)
    found = over_quota(records, Quotas(per_problem=4, template_share=1.0))
    kept = Counter(record.problem_key for number, record in enumerate(records) if number not in found)
    assert set(kept.values()) == {4}
    assert len(kept) == 9
    assert {reason for reason, _ in found.values()} == {"duplicate-problem"}


@pytest.mark.parametrize(
    ("counts", "share"),
    [
        ({"a": 900, "b": 60, "c": 40}, 0.5),
        ({"a": 500, "b": 300, "c": 200}, 0.4),
        ({"a": 10}, 0.5),
        ({"a": 30, "b": 1}, 0.2),
        ({"a": 100, "b": 100, "c": 100}, 0.34),
    ],
)
def test_no_template_has_more_than_its_share_and_no_more_is_cut_than_needed(
    counts: dict[str, int], share: float
) -> None:
    records = records_of(counts)
    found = over_quota(records, Quotas(template_share=share))
    kept = Counter(record.template_id for number, record in enumerate(records) if number not in found)
    bound = max(share, 1 / len(counts))
    total = sum(kept.values())
    assert all(n <= bound * total + 1e-9 for n in kept.values())
    # brute force: the largest common limit that satisfies the share
    best = max(
        limit
        for limit in range(1, max(counts.values()) + 1)
        if min(limit, max(counts.values())) <= bound * sum(min(n, limit) for n in counts.values()) + 1e-9
    )
    assert kept == {template: min(n, best) for template, n in counts.items()}


def test_quotas_go_by_id_and_leave_written_text_alone() -> None:
    records = [problem(f"{i}", f"q{i}", "a", "same") for i in range(9)] + [written("w", "text")]
    found = over_quota(records, Quotas(per_problem=2))
    smallest = sorted(range(9), key=lambda i: records[i].id)[:2]
    assert sorted(found) == sorted(set(range(9)) - set(smallest))
    backwards = over_quota(records[::-1], Quotas(per_problem=2))
    assert {records[i].id for i in found} == {records[::-1][i].id for i in backwards}

"""Looking up a value, in a question and in a long document."""

import random
import re

import pytest

from phi4.grading.answers import final_answer
from phi4.skills.lookup import KEYS, LOOKUP, recall_document, recall_question, recall_solution
from tests.skills.family_checks import check_family, count_tokens


def test_the_family():
    check_family(LOOKUP, swap=lambda p: (p[0][::-1], len(p[0]) - 1 - p[1]))


def test_the_answer_stands_behind_the_key_once():
    for index in range(200):
        problem = LOOKUP.problem(index)
        pairs, asked = problem.params
        key = pairs[asked][0]
        assert re.findall(rf"\b{key}[:=](\d+)", problem.question) == [problem.answer], problem


def test_a_recall_document_holds_the_pair_at_every_depth():
    depths = []
    for seed in range(200):
        text, key, value = recall_document(random.Random(seed), 40)
        pairs = re.findall(r"(\w+)=(\d+)", text)
        assert len(pairs) == len(dict(pairs)) == 40
        assert dict(pairs)[key] == str(value)
        depths.append([word for word, _ in pairs].index(key))
    assert min(depths) < 4
    assert max(depths) > 35


def test_a_recall_document_is_reproducible_and_fills_a_long_context():
    text, key, value = recall_document(random.Random(1), 160)
    assert (text, key, value) == recall_document(random.Random(1), 160)
    assert 900 < count_tokens(text) < 1_024
    assert LOOKUP.score(str(value), recall_solution(key, value))
    assert final_answer(recall_solution(key, value)) == str(value)
    assert key in recall_question(key)


@pytest.mark.parametrize("n_pairs", [0, len(KEYS) + 1])
def test_a_document_of_no_or_too_many_pairs_is_refused(n_pairs):
    with pytest.raises(ValueError, match="recall document"):
        recall_document(random.Random(0), n_pairs)


def test_keys_are_distinct_words():
    assert len(set(KEYS)) == len(KEYS) >= 180
    assert all(re.fullmatch(r"[a-z]{3,6}", key) for key in KEYS)

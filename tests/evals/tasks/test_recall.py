"""Recall items fill their length, hold the asked pair at any depth, and are scored like any skill."""

import re

import pytest

from phi4.errors import DataError
from phi4.evals.runner import evaluate
from phi4.evals.tasks.recall import recall_rows, recall_task
from phi4.skills.lookup import LOOKUP
from tests.evals.fakes import Answerer, document, tokenizer


def find(prompt: str) -> str:
    question = prompt[prompt.rfind("Here is a list") :]
    key = re.findall(r"the code of (\w+)\?", question)[-1]
    value = dict(re.findall(r"(\w+)=(\d+)", question))[key]
    return f"Answer: {value}"


@pytest.mark.parametrize("length", [120, 500])
def test_documents_fill_their_length(length: int) -> None:
    depths = []
    for item in recall_task(length, 20, tokenizer(), document).items:
        size = len(tokenizer().encode(item.stub + item.solution))
        assert length - 24 - 20 < size <= length - 24
        pairs = re.findall(r"(\w+)=(\d+)", item.question)
        key = re.findall(r"the code of (\w+)\?", item.question)[0]
        assert dict(pairs)[key] == item.reference
        depths.append([name for name, _ in pairs].index(key) / len(pairs))
    assert min(depths) < 0.3
    assert max(depths) > 0.6


def test_worded_like_the_family() -> None:
    stub = recall_task(300, 1, tokenizer(), document).items[0].stub
    asked = document(LOOKUP.problem(0, phrasing=0))
    shape = re.compile(r"\w+=\d+(, \w+=\d+)*")
    assert shape.sub("PAIRS", stub).split("code of")[0] == shape.sub("PAIRS", asked).split("code of")[0]


@pytest.mark.parametrize("mode", ["chat", "few-shot"])
def test_scores_per_length(mode) -> None:
    tasks = [recall_task(length, 10, tokenizer(), document) for length in (150, 400)]
    right = evaluate(tasks, Answerer(find), tokenizer(), mode, stage="midtrain", context=400)
    assert [(r["stage"], r["length"], r["n"], r["correct"]) for r in recall_rows(right, tasks)] == [
        ("midtrain", 150, 10, 10),
        ("midtrain", 400, 10, 10),
    ]
    wrong = evaluate(tasks, Answerer(lambda p: "Answer: 1"), tokenizer(), mode, stage="x", context=400)
    assert [row["correct"] for row in recall_rows(wrong, tasks)] == [0, 0]
    assert recall_rows(wrong, tasks)[0]["low"] == 0


def test_a_length_without_room() -> None:
    with pytest.raises(DataError, match="cannot hold one key-value pair"):
        recall_task(40, 1, tokenizer(), document)

"""Known answerers must get exactly the score they deserve, and a stored response the same score again."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from phi4.errors import DataError
from phi4.evals.baselines import Baselines
from phi4.evals.rescore import rescore
from phi4.evals.runner import EvalResult, evaluate, read_items, result_json, summarise, write_result
from phi4.evals.task import Mode, Score
from phi4.evals.tasks.skills import skill_scorer, skill_tasks
from phi4.text.generation import Sampler
from tests.evals.fakes import SIGNS, SUMS, Answerer, document, tokenizer

FAMILIES = {"sums": SUMS, "signs": SIGNS}


def solve(prompt: str) -> str:
    """Reads the last question of a prompt and works it out; independent of the families' own answers."""
    last = prompt[max(prompt.rfind("What is"), prompt.rfind("Add"), prompt.rfind("Is ")) :]
    numbers = [int(number) for number in re.findall(r"-?\d+", last)]
    answer = ("yes" if numbers[0] < 0 else "no") if last.startswith("Is ") else str(sum(numbers))
    return f"I think.\nAnswer: {answer}"


def run(sampler: Sampler, mode: Mode = "chat", n: int = 40, context: int = 200) -> EvalResult:
    tasks = skill_tasks(FAMILIES.values(), n, document)
    return evaluate(tasks, sampler, tokenizer(), mode, stage="sft", context=context, max_tokens=60)


@pytest.mark.parametrize("mode", ["chat", "few-shot"])
def test_oracle_scores_everything(mode: Mode) -> None:
    sampler = Answerer(solve)
    result = run(sampler, mode)
    assert len(sampler.calls) == 1
    assert result.overall.n == 80
    assert result.overall.accuracy == 1.0
    assert result.overall.format_failures == 0
    # Wilson bound of 80 of 80 by hand: n / (n + z^2) with z = 1.959964
    assert result.overall.low == pytest.approx(80 / (80 + 1.959964**2), abs=1e-6)
    assert result.overall.high == pytest.approx(1.0)


def test_constant_answer_scores_the_base_rate() -> None:
    result = run(Answerer(lambda prompt: "Answer: yes"))
    held = [item.reference for item in result.items if item.family == "signs"]
    assert result.families["signs"].tally.correct == held.count("yes") > 20
    assert result.families["sums"].tally.correct == 0
    assert result.overall.format_failures == 0


@pytest.mark.parametrize(
    "sampler",
    [
        Answerer(lambda prompt: solve(prompt).replace("Answer:", "It is")),  # no answer line
        Answerer(lambda prompt: "Answer:"),  # an empty one
        Answerer(solve, ends=False),  # right, but never ends
        Answerer(lambda prompt: "so " * 300 + solve(prompt)),  # cut at the length limit
        Answerer(lambda prompt: ""),
    ],
)
def test_broken_format_is_a_failure_and_never_correct(sampler: Sampler) -> None:
    result = run(sampler)
    assert result.overall.correct == 0
    assert result.overall.format_failures == result.overall.n == 80


def test_base_model_may_run_on_after_its_answer_line() -> None:
    def rambling(prompt: str) -> str:
        return solve(prompt) + "\nProblem: What is 1+1?\nAnswer: 2"

    assert run(Answerer(rambling, ends=False), "few-shot").overall.accuracy == 1.0
    assert run(Answerer(rambling, ends=False), "chat").overall.correct == 0


def test_prompts_are_chat_turns_or_training_documents() -> None:
    chat, few = Answerer(solve), Answerer(solve)
    run(chat, "chat")
    run(few, "few-shot")
    assert re.fullmatch(
        r"<\|im_start\|>user<\|im_sep\|>[^<]+<\|im_end\|><\|im_start\|>assistant<\|im_sep\|>",
        tokenizer().decode(chat.calls[0][0].ids),
    )
    text = tokenizer().decode(few.calls[0][0].ids)
    shot, stub = text.split("\n\n")
    assert re.fullmatch(r"Problem: [^\n]+\nSolution:\n\d+\+\d+\nAnswer: \d+", shot)
    assert re.fullmatch(r"Problem: [^\n]+\nSolution:\n", stub)


def test_shots_give_way_to_the_question() -> None:
    sampler = Answerer(solve)
    tight = run(sampler, "few-shot", context=85)
    assert tight.overall.accuracy == 1.0
    assert all("\n\n" not in tokenizer().decode(request.ids) for request in sampler.calls[0])
    with pytest.raises(DataError, match="does not fit a context of 8"):
        run(sampler, "few-shot", context=8)


def test_default_budget_follows_the_worked_solution() -> None:
    sampler = Answerer(solve)
    tasks = skill_tasks([SUMS], 5, document)
    evaluate(tasks, sampler, tokenizer(), "chat", stage="sft", context=200)
    for item, request in zip(tasks[0].items, sampler.calls[0], strict=True):
        assert request.params.max_tokens == 2 * len(tokenizer().encode(item.solution)) + 16
        assert set(request.params.stop_ids) == set(tokenizer().stop_ids)


def test_files_hold_the_scores_and_rescoring_repeats_them(tmp_path: Path) -> None:
    def half_right(prompt: str) -> str:
        text = solve(prompt)
        return text if len(prompt) % 2 else text.replace("Answer:", "\u2028 maybe")

    known = {"sums": Baselines(chance=0.125, neighbour=0.25)}
    tasks = skill_tasks(FAMILIES.values(), 30, document)
    result = evaluate(
        tasks,
        Answerer(half_right),
        tokenizer(),
        "chat",
        stage="dpo",
        context=200,
        known=known,
        untrained=frozenset({"signs"}),
    )
    assert 0 < result.overall.correct < result.overall.n == 30
    assert result.transfer is not None
    assert result.transfer.n == 30

    scores = json.loads(write_result(result, tmp_path).read_text())
    assert scores == result_json(result)
    assert scores["families"]["sums"]["chance"] == 0.125
    assert scores["families"]["sums"]["trained"] is True
    assert scores["families"]["signs"]["trained"] is False
    assert scores["families"]["signs"]["neighbour"] is None
    assert (scores["stage"], scores["mode"], scores["level"], scores["n"]) == ("dpo", "chat", "standard", 30)

    path = tmp_path / "dpo.items.jsonl"
    assert tuple(read_items(path)) == result.items
    again = rescore(path, lambda family: skill_scorer(FAMILIES[family]))
    assert again.changed == 0
    assert replace(again.result, seconds=result.seconds) == result

    # Another scorer gives other verdicts; going back gives the first ones, whatever was stored.
    strict = rescore(path, lambda family: lambda reference, response, finish: Score(None, False, False))
    assert strict.changed == sum(item.format_ok for item in result.items)
    assert strict.result.overall.correct == 0
    write_result(strict.result, tmp_path)
    back = rescore(path, lambda family: skill_scorer(FAMILIES[family]))
    assert back.changed == strict.changed
    assert back.result.items == result.items
    assert back.result.families == result.families


def test_items_can_be_rescored_without_their_scores(tmp_path: Path) -> None:
    result = run(Answerer(solve), n=5)
    write_result(result, tmp_path).unlink()
    again = rescore(tmp_path / "sft.items.jsonl", lambda family: skill_scorer(FAMILIES[family]))
    assert again.result.items == result.items
    assert again.result.overall == result.overall
    (tmp_path / "sft.json").write_text("[]")
    with pytest.raises(DataError, match="not the scores"):
        rescore(tmp_path / "sft.items.jsonl", lambda family: skill_scorer(FAMILIES[family]))
    (tmp_path / "sft.items.jsonl").write_text("")
    with pytest.raises(DataError):
        rescore(tmp_path / "sft.items.jsonl", lambda family: skill_scorer(FAMILIES[family]))


@pytest.mark.parametrize("line", ["not json", '{"task": "skills-v1"}', "[]", ""])
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: str) -> None:
    result = run(Answerer(solve), n=1)
    write_result(result, tmp_path)
    path = tmp_path / "sft.items.jsonl"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match=r"items\.jsonl:3"):
        read_items(path)


def test_interval_by_hand() -> None:
    # 10 of 40, z = 1.959964: centre (10 + z^2/2) / (40 + z^2), half width from the textbook formula
    result = run(Answerer(solve))
    items = [replace(item, correct=number < 10) for number, item in enumerate(result.items[:40])]
    tally = summarise(items, stage="s", mode="chat", level="standard", known={}).overall
    z = 1.959964
    centre = (10 + z * z / 2) / (40 + z * z)
    half = z * (40 * 0.25 * 0.75 + z * z / 4) ** 0.5 / (40 + z * z)
    assert (tally.low, tally.high) == (
        pytest.approx(centre - half, abs=1e-6),
        pytest.approx(centre + half, abs=1e-6),
    )

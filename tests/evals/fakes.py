"""A tiny family, a tokenizer and samplers that need no network."""

import random
from collections.abc import Callable, Sequence
from functools import cache

from phi4.skills.family import Family, Params, Problem, Solution
from phi4.text.generation import Completion, Request
from phi4.text.tokenizer import Tokenizer
from phi4.text.train_tokenizer import train_tokenizer


def _sample(rng: random.Random, level: int) -> Params:
    return tuple(rng.randrange(10**level) for _ in range(2))


SUMS = Family(
    name="sums",
    title="sums",
    levels=("one digit", "two digits", "three digits"),
    kind="integer",
    phrasings=2,
    sample=_sample,
    canonical=lambda params: tuple(sorted(params)),
    ask=lambda params, phrasing, rng: ("What is {}+{}?", "Add {} and {}.")[phrasing].format(*params),
    solve=lambda params, rng: Solution((f"{params[0]}+{params[1]}",), str(sum(params))),
    check=lambda params, answer: int(answer) == sum(params),
)

SIGNS = Family(
    name="signs",
    title="signs",
    levels=("a", "b", "c"),
    kind="text",
    phrasings=1,
    sample=lambda rng, level: (rng.choice([-1, -1, -1, 1]) * rng.randrange(1, 10_000),),
    canonical=lambda params: params,
    ask=lambda params, phrasing, rng: f"Is {params[0]} below zero?",
    solve=lambda params, rng: Solution((f"look at {params[0]}",), "yes" if params[0] < 0 else "no"),
    check=lambda params, answer: (answer == "yes") == (params[0] < 0),
)


def document(problem: Problem) -> str:
    return f"Problem: {problem.question}\nSolution:\n{problem.solution}"


@cache
def tokenizer() -> Tokenizer:
    texts = [document(family.problem(i)) for family in (SUMS, SIGNS) for i in range(300)]
    return train_tokenizer([*texts, "user assistant"], 400)


class Answerer:
    """A sampler that answers the question it finds in the prompt's text."""

    def __init__(self, answer: Callable[[str], str], *, ends: bool = True) -> None:
        self.answer, self.ends = answer, ends
        self.calls: list[Sequence[Request]] = []

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.calls.append(requests)
        completions = []
        for number, request in enumerate(requests):
            ids = tokenizer().encode(self.answer(tokenizer().decode(request.ids)))
            cut = tuple(ids[: request.params.max_tokens])
            whole = self.ends and len(cut) == len(ids)
            completions.append(Completion(number, 0, cut, (0.0,) * len(cut), "stop" if whole else "length"))
        return completions

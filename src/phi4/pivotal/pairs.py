"""From a pivotal token to a training pair: two tokens after one prefix, and proof that one is better.

The two tokens are chosen by the rollouts that found the pivot, so their success rates are flattered (the
best of several noisy numbers is usually also lucky). A pair is therefore kept only if *fresh* rollouts
after both tokens show the difference again, and only those fresh numbers are reported.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from phi4.data.record import Record, TokenPair, derived_record
from phi4.grading.intervals import wilson
from phi4.pivotal.rollouts import Question, Rollouts, Solution
from phi4.pivotal.search import Pivot, Rule, Search, compare

STEP = "pivotal"
Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class Pair:
    """After `solution[:index]`, token `accepted` leads to success more often than `rejected`."""

    question: str  # id
    solution: tuple[int, ...]  # the completion that was searched
    index: int
    accepted: int
    rejected: int
    p_prefix: float  # share right after the prefix, in the search's rollouts
    p_accepted: float  # share right after the token, in fresh rollouts (without confirmation: the search's)
    p_rejected: float
    n_accepted: int
    n_rejected: int

    @property
    def prefix(self) -> tuple[int, ...]:
        """The completion's ids before the pivotal token, without the prompt."""
        return self.solution[: self.index]


@dataclass(frozen=True, slots=True)
class Candidate:
    """Two tokens that seem to differ, with (successes, rollouts) of each in the search."""

    accepted: int
    rejected: int
    seen_accepted: tuple[int, int]
    seen_rejected: tuple[int, int]


def candidate(rollouts: Rollouts, solution: Solution, pivot: Pivot, min_seen: int) -> Candidate | None:
    """The pivotal token and its best counterpart among the first tokens of the rollouts made before it.

    Best means the most certain: lowest upper (for a rejected token) or highest lower (for an accepted one)
    end of its 95 % interval. None when no other token was sampled `min_seen` times.
    """
    token, prefix = solution.tokens[pivot.index], solution.tokens[: pivot.index]
    seen: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for first, right in rollouts.first_tokens(prefix):
        seen[first][0] += right
        seen[first][1] += 1
    others = {other: (s, n) for other, (s, n) in seen.items() if other != token and n >= min_seen}
    if not others:
        return None
    own = (pivot.comparison.second, pivot.comparison.n)
    if pivot.comparison.difference > 0:
        worst = min(others, key=lambda other: (wilson(*others[other]).high, other))
        return Candidate(token, worst, own, others[worst])
    best = min(others, key=lambda other: (-wilson(*others[other]).low, other))
    return Candidate(best, token, others[best], own)


def confirm(
    rollouts: Rollouts, solution: Solution, pivot: Pivot, chosen: Candidate, test: Rule | None
) -> Search[Pair | None]:
    """The pair, if fresh rollouts after both tokens pass `test` (p_accepted - p_rejected > margin).

    Without a test the pair is taken as it is, on the numbers it was chosen by; only the benchmark that
    shows what this does to the false discoveries asks for that.
    """
    prefix = solution.tokens[: pivot.index]
    accepted, rejected = chosen.seen_accepted, chosen.seen_rejected
    if test is not None:
        after = (*prefix, chosen.accepted), (*prefix, chosen.rejected)
        comparison = yield from compare(rollouts, test, *after, purpose="confirm")
        if comparison.verdict != "pivotal":
            return None
        accepted, rejected = (comparison.first, comparison.n), (comparison.second, comparison.n)
    return Pair(
        question=rollouts.question.id,
        solution=solution.tokens,
        index=pivot.index,
        accepted=chosen.accepted,
        rejected=chosen.rejected,
        p_prefix=pivot.comparison.first / pivot.comparison.n,
        p_accepted=accepted[0] / accepted[1],
        p_rejected=rejected[0] / rejected[1],
        n_accepted=accepted[1],
        n_rejected=rejected[1],
    )


def row(pair: Pair, question: Question, decode: Decode) -> dict[str, Any]:
    """A pair as a line of pairs.jsonl: in text, for people and for the report."""
    return {
        "question_id": question.id,
        "family": question.family,
        "question": question.text,
        "prefix_text": decode(pair.prefix),
        "accepted_text": decode([pair.accepted]),
        "rejected_text": decode([pair.rejected]),
        "p_prefix": pair.p_prefix,
        "p_accepted": pair.p_accepted,
        "p_rejected": pair.p_rejected,
        "n_accepted": pair.n_accepted,
        "n_rejected": pair.n_rejected,
        "solution_text_tokens": [decode([token]) for token in pair.solution],
        "pivotal_index": pair.index,
    }


def record(
    pair: Pair, question: Question, output_index: int, tokenizer: str, fingerprint: str, model: str
) -> Record:
    """Pair number `output_index` of a question as a training record; `tokenizer` names what its ids mean."""
    content = TokenPair(tokenizer, question.prompt + pair.prefix, (pair.accepted,), (pair.rejected,))
    meta = {"index": pair.index, "p_accepted": pair.p_accepted, "p_rejected": pair.p_rejected}
    return preference(question, content, fingerprint, model, STEP, output_index, meta)


def preference(
    question: Question,
    content: TokenPair,
    fingerprint: str,
    model: str,
    step: str,
    output_index: int,
    meta: dict[str, Any],
) -> Record:
    """A preference record that descends from the question's."""
    return derived_record(
        step,
        fingerprint,
        (question.id,),
        output_index,
        content,
        kind="preference",
        skill=question.family,
        licence=question.licence,
        source=step,
        generator=model,
        problem_key=question.problem_key,
        meta=meta,
    )

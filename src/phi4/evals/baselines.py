"""How far one gets without solving anything: the commonest answer, and the answer of the nearest question.

Both are scored on the very items a model is scored on. A family on which either does well measures
memory, not skill.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from phi4.evals.task import Task
from phi4.skills.family import LEVELS, Family, Problem
from phi4.skills.split import HELD_OUT_PERCENT, distinct_problems

NEIGHBOURS = 2_000  # training problems a question is compared with, per family
_BUCKET_BITS = 11
_BUCKETS = 1 << _BUCKET_BITS  # few enough that 2,000 questions compare in a fraction of a second
_GRAM_SIZES = (2, 3, 5)  # bytes: digits and word parts, short words, longer words
_MIX = np.uint64(0x9E3779B97F4A7C15)  # multiplicative (Fibonacci) hashing


@dataclass(frozen=True, slots=True)
class Baselines:
    """Accuracy of the two strategies, 0..1."""

    chance: float
    neighbour: float


def baselines(
    task: Task, family: Family, *, neighbours: int = NEIGHBOURS, percent: int = HELD_OUT_PERCENT
) -> Baselines:
    """Score both strategies on the task's items, knowing `neighbours` training problems of its level."""
    level = LEVELS.index(task.level) + 1
    known = list(islice(distinct_problems(family, held=False, level=level, percent=percent), neighbours))
    return Baselines(chance=chance(task, known), neighbour=neighbour(task, known))


def chance(task: Task, known: Sequence[Problem]) -> float:
    """Accuracy of always giving the training problems' most frequent answer (ties: the first seen)."""
    answer = Counter(problem.answer for problem in known).most_common(1)[0][0]
    return _accuracy(task, [answer] * len(task.items))


def neighbour(task: Task, known: Sequence[Problem]) -> float:
    """Accuracy of giving the answer of the training problem whose question reads most alike.

    Likeness is the cosine of hashed byte n-gram counts, weighted by inverse document frequency, so that
    a shared number counts for more than a shared phrase.
    """
    known_ND = _gram_counts([problem.question for problem in known])
    asked_MD = _gram_counts([item.question for item in task.items])
    rarity_D = np.log((1 + len(known)) / (1 + np.count_nonzero(known_ND, axis=0))).astype(np.float32)
    known_ND *= rarity_D
    asked_MD *= rarity_D
    lengths_N = np.sqrt(np.einsum("nd,nd->n", known_ND, known_ND))
    # The length of the asked question scales a whole row and cannot change which neighbour is nearest.
    nearest_M = (asked_MD @ known_ND.T / np.maximum(lengths_N, 1e-12)).argmax(1)
    return _accuracy(task, [known[int(n)].answer for n in nearest_M])


def _accuracy(task: Task, answers: Sequence[str]) -> float:
    verdicts = [
        task.scorer(item.reference, f"Answer: {answer}", "stop").correct
        for item, answer in zip(task.items, answers, strict=True)
    ]
    return sum(verdicts) / len(verdicts) if verdicts else 0.0


def _gram_counts(texts: Sequence[str]) -> NDArray[np.float32]:
    """Counts of hashed byte n-grams, one row per text."""
    rows = np.zeros((len(texts), _BUCKETS), np.float32)
    for row, text in zip(rows, texts, strict=True):
        data = np.frombuffer(text.lower().encode(), np.uint8).astype(np.uint64)
        for size in _GRAM_SIZES:
            if len(data) < size:
                continue
            grams = np.zeros(len(data) - size + 1, np.uint64)
            for offset in range(size):
                grams = grams * np.uint64(256) + data[offset : offset + len(grams)]
            buckets = (grams + np.uint64(size)) * _MIX >> np.uint64(64 - _BUCKET_BITS)
            row += np.bincount(buckets.astype(np.int64), minlength=_BUCKETS)
    return rows

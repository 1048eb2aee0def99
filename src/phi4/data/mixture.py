"""How much of each source a stage reads: fractions and epochs, as in Table 5 of the report.

A source has a share of the stage's tokens; epochs follow from share x total / unique tokens. A source that
would have to be read more often than `max_epochs` gives its excess back to the others, and the table says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from phi4.errors import ConfigError


@dataclass(frozen=True)
class MixtureRow:
    """One line of the mixture table; `fraction` is what is really read, `wanted` what was declared."""

    source: str
    wanted: float
    fraction: float
    unique_tokens: int
    epochs: float
    tokens: int


def mix(
    lengths: Mapping[str, Sequence[int]],
    fractions: Mapping[str, float],
    total_tokens: int,
    *,
    seed: int,
    max_epochs: float = 16.0,
) -> tuple[list[tuple[str, int]], list[MixtureRow]]:
    """Choose documents until `total_tokens` are read. `lengths` gives each source's documents in tokens.

    Returns the reading order as (source, document number), shuffled over the whole stage by `seed`, and the
    table. Each epoch of a source is a whole pass in an order of its own. Raises ConfigError when the
    fractions do not sum to 1 or name a source that does not exist.
    """
    if abs(sum(fractions.values()) - 1) > 1e-6:
        raise ConfigError(f"mixture fractions sum to {sum(fractions.values()):.4f}, not 1")
    for name in fractions:
        if name not in lengths:
            raise ConfigError(f"the mixture names the source {name}", f"known: {', '.join(sorted(lengths))}")
    unique = {name: sum(lengths[name]) for name in fractions}
    budget = _budgets(unique, fractions, total_tokens, max_epochs)
    order: list[tuple[str, int]] = []
    table: list[MixtureRow] = []
    rng = np.random.default_rng(seed)
    for name in fractions:
        taken = 0
        while taken < budget[name] and unique[name]:
            for number in rng.permutation(len(lengths[name])).tolist():
                if taken >= budget[name]:
                    break
                order.append((name, number))
                taken += lengths[name][number]
        epochs = taken / unique[name] if unique[name] else 0.0
        table.append(MixtureRow(name, fractions[name], 0.0, unique[name], epochs, taken))
    read = sum(row.tokens for row in table) or 1
    table = [
        MixtureRow(r.source, r.wanted, r.tokens / read, r.unique_tokens, r.epochs, r.tokens) for r in table
    ]
    return [order[i] for i in rng.permutation(len(order)).tolist()], table


def _budgets(
    unique: Mapping[str, int], fractions: Mapping[str, float], total: int, max_epochs: float
) -> dict[str, float]:
    """Tokens per source, the excess over `max_epochs` shared out among the sources that still have room."""
    budget: dict[str, float] = {}
    free = dict(fractions)
    left = float(total)
    while free:
        weight = sum(free.values())
        full = [n for n in free if unique[n] * max_epochs < left * free[n] / weight]
        if not full:
            budget |= {n: left * share / weight for n, share in free.items()}
            break
        for name in full:
            budget[name] = unique[name] * max_epochs
            left -= budget[name]
            del free[name]
    return budget

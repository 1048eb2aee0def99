"""The benchmark's own world must be what it says, and its verdicts right."""

import json
import random

import pytest

from phi4.bench.pivotal import BASES, DELTAS, LENGTH, FixedRule, PlantedServer, plant, simulate, table
from phi4.bench.pivotal import _binomial as binomial
from phi4.cli.main import main
from phi4.grading.sequential import PivotalTest
from phi4.text.generation import Completion, Event, Request, SamplingParams


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("delta", DELTAS)
def test_planted_worlds_are_consistent(base: float, delta: float) -> None:
    """The value of a prefix is the average over its next token; all values are probabilities."""
    world = plant(base, delta, random.Random(1))
    for i in range(LENGTH):
        average = world.follow * world.value(i + 1) + (1 - world.follow) * world.other(i)
        assert average == pytest.approx(world.value(i))
        assert 0 <= world.other(i) <= 1
    jumps = [i for i in range(LENGTH) if world.value(i + 1) != world.value(i)]
    assert jumps == ([world.jump] if delta else [])
    assert abs(world.value(LENGTH) - world.value(0)) == pytest.approx(delta)


def test_server_has_the_rates_it_plants_and_continues_requests() -> None:
    world = plant(0.5, 0.3, random.Random(2))
    server = PlantedServer([world])

    def ask(prefix: tuple[int, ...], first: int, n: int) -> list[tuple[int, ...]]:
        params = SamplingParams(seed=3, n=n, first_sample=first)
        events: list[Event] = []
        server.submit(Request((10_000, *prefix), params), events.append)
        return [event.ids for event in events if isinstance(event, Completion)]

    before = ask((), 0, 4000)
    assert sum(ids[-1] == 1 for ids in before) / 4000 == pytest.approx(0.5, abs=0.04)
    path = tuple(range(1000, 1000 + world.jump + 1))
    assert sum(ids[-1] == 1 for ids in ask(path, 0, 4000)) / 4000 == pytest.approx(0.8, abs=0.04)
    assert ask((), 0, 30)[10:] == ask((), 10, 20)


def test_fixed_rule_is_wrong_half_the_time_on_equal_rates() -> None:
    """The known figure for 10 samples, threshold 0.2, p = 0.5; and the first simulated test agrees."""
    rule = FixedRule()
    wrong = sum(
        binomial(a, 10, 0.5) * binomial(b, 10, 0.5)
        for a in range(11)
        for b in range(11)
        if rule.decide(a, b, 10) == "pivotal"
    )
    assert wrong == pytest.approx(0.503, abs=0.001)
    cell = simulate("fixed-10", rule, None, 0.5, 0.0, questions=60, seed=1)
    assert 0.3 < cell.false_positives / cell.null_tests < 0.75
    assert cell.false_discovery_rate == 1.0


def test_sequential_rule_keeps_its_promises() -> None:
    ours = PivotalTest(), PivotalTest(two_sided=False)
    null = simulate("sequential", *ours, 0.5, 0.1, questions=40, seed=1)
    assert null.false_positives <= 6  # of about 40 at the edge of the null
    strong = simulate("sequential", *ours, 0.5, 0.3, questions=20, seed=1)
    assert strong.paired >= 18
    assert strong.false_pairs == 0
    assert "sequential" in table([null, strong])


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "pivotal", "--quick", "--json"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["bench"] == "pivotal"
    assert {cell["rule"] for cell in last["cells"]} == {"sequential", "fixed-10"}
    assert len(last["cells"]) == 2 * len(DELTAS) * len(BASES)

"""Fractions and epochs of a mixture, against the arithmetic of Table 5."""

from collections import Counter

import pytest

from phi4.data.mixture import mix
from phi4.errors import ConfigError

LENGTHS = {"web": [10] * 1000, "books": [50] * 20, "code": [25] * 80}


def test_fractions_and_epochs_come_out_as_declared() -> None:
    order, table = mix(LENGTHS, {"web": 0.5, "books": 0.3, "code": 0.2}, 10_000, seed=0)
    tokens = Counter[str]()
    for name, number in order:
        tokens[name] += LENGTHS[name][number]
    rows = {row.source: row for row in table}
    for name, share in (("web", 0.5), ("books", 0.3), ("code", 0.2)):
        assert tokens[name] == rows[name].tokens
        assert rows[name].fraction == pytest.approx(share, abs=0.01)
        assert rows[name].epochs == pytest.approx(share * 10_000 / sum(LENGTHS[name]), rel=0.02)


def test_every_document_is_read_equally_often_within_an_epoch() -> None:
    order, _ = mix(LENGTHS, {"books": 1.0}, 2_500, seed=1)
    times = Counter(number for _, number in order)
    assert set(times.values()) == {2, 3}
    assert len(times) == 20


def test_a_small_source_gives_its_excess_back() -> None:
    _, table = mix(LENGTHS, {"books": 0.5, "web": 0.5}, 20_000, seed=0, max_epochs=4)
    rows = {row.source: row for row in table}
    assert rows["books"].tokens == 4_000
    assert rows["books"].wanted == 0.5
    assert rows["web"].tokens == pytest.approx(16_000, abs=20)


def test_the_seed_decides_the_order() -> None:
    one, again, other = (mix(LENGTHS, {"web": 0.5, "code": 0.5}, 3_000, seed=s)[0] for s in (3, 3, 4))
    assert one == again != other


def test_wrong_mixtures_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"sum to 0\.9"):
        mix(LENGTHS, {"web": 0.9}, 100, seed=0)
    with pytest.raises(ConfigError, match="poems"):
        mix(LENGTHS, {"poems": 1.0}, 100, seed=0)

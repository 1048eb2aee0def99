"""The compute dtype is measured, and one slow look does not decide it."""

import itertools
from collections.abc import Callable

import torch

from phi4 import device


def _clock(*durations: float) -> Callable[[], float]:
    """A perf_counter whose looks take these seconds, the last one for ever after."""
    now, times = 0.0, []
    for duration in (*durations, *itertools.repeat(durations[-1], 40)):
        times += [now, now + duration]
        now += duration
    return iter(times).__next__


def test_a_slow_first_look_is_not_the_speed(monkeypatch):
    monkeypatch.setattr(device.time, "perf_counter", _clock(0.7, 0.005))
    assert device._matmul_gflops(torch.float32, "cpu") > 400


def test_a_dtype_that_stays_slow_is_given_up_early(monkeypatch):
    clock = _clock(0.7)
    monkeypatch.setattr(device.time, "perf_counter", clock)
    assert device._matmul_gflops(torch.float32, "cpu") < 4
    assert clock() > 2.0  # three looks were taken
    assert clock() < 5.0  # and no twenty

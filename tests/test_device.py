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


def test_bandwidth_is_that_of_memory_not_of_a_cache(monkeypatch):
    """An independent look: numpy's sum of float64, on one thread, over the same size."""
    import time

    import numpy as np

    device.read_bandwidth.cache_clear()
    found = device.read_bandwidth(0.2)
    values = np.zeros(device._READ_BYTES // 8)
    values += 1  # its pages exist now
    looks = []
    for _ in range(4):
        begun = time.perf_counter()
        values.max()
        looks.append(values.nbytes / (time.perf_counter() - begun))
    assert 0.2 * max(looks) < found < 40 * max(looks)
    assert 1e8 < found < 1e13


def test_bandwidth_is_bytes_over_the_best_pass(monkeypatch):
    device.read_bandwidth.cache_clear()
    monkeypatch.setattr(device, "_last_cache_bytes", lambda: 0)
    monkeypatch.setattr(device, "_READ_BYTES", 4000)
    times = iter([0.0, 0.0, 2.0, 2.0, 2.0, 2.5, 2.5, 2.5, 4.0, 9.0])
    monkeypatch.setattr(device.time, "perf_counter", lambda: next(times))
    try:
        assert device.read_bandwidth(3.0) == 4000 / 0.5
    finally:
        device.read_bandwidth.cache_clear()

"""The library in every instruction set this CPU runs, compiled once and kept with the user's own."""

import shutil
from pathlib import Path

import pytest

from phi4.engine.kernels import build
from phi4.engine.kernels.native import Library

_AVX2 = ("-march=x86-64", "-mavx2", "-mfma", "-mf16c")
MACHINES = {
    "native": build.NATIVE,
    "avx512": ("-march=x86-64-v4", "-mavx512vnni"),
    "avx2": _AVX2,
    "avx2vnni": (*_AVX2, "-mavxvnni"),
    "portable": ("-march=x86-64",),
}
_NEEDS = {"native": "", "avx512": "avx512_vnni", "avx2": "avx2", "avx2vnni": "avx_vnni", "portable": "sse2"}


def _library(machine: str) -> Library:
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    if _NEEDS[machine] and _NEEDS[machine] not in Path("/proc/cpuinfo").read_text(encoding="utf-8").split():
        pytest.skip(f"this CPU has no {_NEEDS[machine]}")
    return Library(build.library(MACHINES[machine]))


@pytest.fixture(scope="session", params=list(MACHINES))
def library(request: pytest.FixtureRequest) -> Library:
    return _library(request.param)


@pytest.fixture(scope="session")
def native() -> Library:
    return _library("native")

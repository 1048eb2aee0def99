"""native.cpp as a shared library: compiled on first use for exactly this CPU, kept in the user's cache.

The library must run on PyTorch's own threads: two thread pools that spin for work halve each other. So it is linked
against the very OpenMP library that PyTorch has already loaded, found in the process's memory map.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from phi4.errors import Phi4Error, RunError
from phi4.run.files import atomic_file

SOURCE = Path(__file__).with_name("native.cpp")
NATIVE = ("-march=native",)
# Contraction is off so that the order of roundings is the source's own, whatever the compiler.
_FLAGS = (
    "-O3",
    "-std=c++17",
    "-fPIC",
    "-fopenmp",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-w",
)
_SECONDS = 120  # a compiler that takes longer is stuck


class BuildError(Phi4Error):
    """The native kernels could not be compiled or loaded. Nobody needs to see it: the plain kernels take over."""


def cache_folder() -> Path:
    """Where compiled kernels and measured choices of this machine lie: $XDG_CACHE_HOME or ~/.cache, phi4/kernels."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phi4" / "kernels"


def library(machine: tuple[str, ...] = NATIVE, folder: Path | None = None) -> Path:
    """The compiled library for the instruction set of `machine` (compiler flags), built if it is not there.

    Two processes may build at once: each writes a file of its own and renames it.
    Raises BuildError without a compiler, with one that fails, or when PyTorch's OpenMP library is not found.
    """
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        raise BuildError("no C++ compiler", "install one (g++ or clang++) for the fast kernels")
    version = _run([compiler, "--version"])
    flags = (*_FLAGS, *machine)
    openmp = _openmp_library()
    parts = (SOURCE.read_text(encoding="utf-8"), *flags, version, cpu_flags(), str(openmp))
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    path = (folder or cache_folder()) / f"kernels-{key}.so"
    if not path.exists():
        _compile(compiler, flags, openmp, path)
    return path


def load(path: Path) -> ctypes.CDLL:
    """The library at `path`. Raises BuildError when it cannot be loaded."""
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"cannot load {path}: {error}") from error


def _compile(compiler: str, flags: tuple[str, ...], openmp: Path, path: Path) -> None:
    try:
        with tempfile.TemporaryDirectory() as scratch, atomic_file(path) as target:
            # In two steps: linking with -fopenmp would add the compiler's own OpenMP library.
            compiled = str(Path(scratch) / "native.o")
            _run([compiler, *flags, "-c", str(SOURCE), "-o", compiled])
            _run([compiler, "-shared", compiled, str(openmp), "-o", str(target)])
    except (OSError, RunError) as error:
        raise BuildError(f"cannot write {path}: {error}".splitlines()[0]) from error


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} does not run: {error}") from error
    if done.returncode:
        first = next(
            (line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[:200]
        )
        raise BuildError(f"{command[0]} failed: {first}")
    return done.stdout


def _openmp_library() -> Path:
    """The OpenMP library of this process's PyTorch."""
    names = ("libgomp", "libomp", "libiomp5")
    if sys.platform == "linux":
        with open("/proc/self/maps", encoding="utf-8") as maps:
            loaded = {Path(line.split()[-1]) for line in maps if "/" in line}
        found = sorted(path for path in loaded if path.name.startswith(names) and path.exists())
        if found:
            torch_folder = Path(torch.__file__).parent.parent
            return next((path for path in found if path.is_relative_to(torch_folder)), found[0])
    beside = sorted((Path(torch.__file__).parent / "lib").glob("lib*omp*"))
    if not beside:
        raise BuildError("PyTorch's OpenMP library was not found")
    return beside[0]


def cpu_flags() -> str:
    """What -march=native depends on: a cache on a shared disk serves several machines."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        return os.uname().machine if hasattr(os, "uname") else sys.platform

"""What this machine computes with: device, compute dtype and speed, measured once and written down.

bf16 is six times faster than float32 on CPUs that have it in hardware and a hundred times slower on
those that do not, so the dtype is measured, never assumed.
"""

import os
import platform
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_SIZE, _REPEATS = 1024, 20
_READ_BYTES = 256 << 20  # at least; four times the last cache where that is more


@dataclass(frozen=True)
class Machine:
    """The measured machine. Matmul speeds are dense 1024³ products in GFLOP/s (the base of every MFU)."""

    device: str
    cpu: str
    cores: int
    memory_gb: float
    torch_version: str
    dtype: str  # compute dtype: the faster of the two
    matmul_gflops: dict[str, float]

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype activations are computed in."""
        return _DTYPES[self.dtype]

    @property
    def peak_flops(self) -> float:
        """FLOP/s of a dense product in the compute dtype."""
        return self.matmul_gflops[self.dtype] * 1e9

    def micro_rows(self, rows: int) -> int:
        """Rows of a micro-batch: a core's share of a step, or the whole step on a GPU."""
        return -(-rows // torch.get_num_threads()) if self.device == "cpu" else rows

    def to_json(self) -> dict[str, Any]:
        """Plain values for run.json."""
        return asdict(self)


@lru_cache(maxsize=1)
def measure(dtype: str = "") -> Machine:
    """Measure once per process; `dtype` ("float32", "bfloat16") overrides the choice."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    speeds = {name: round(_matmul_gflops(kind, device), 1) for name, kind in _DTYPES.items()}
    return Machine(
        device=device,
        cpu=_cpu_name(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        torch_version=torch.__version__,
        dtype=dtype or max(speeds, key=lambda name: speeds[name]),
        matmul_gflops=speeds,
    )


def _matmul_gflops(dtype: torch.dtype, device: str) -> float:
    a, b = (torch.ones(_SIZE, _SIZE, dtype=dtype, device=device) for _ in range(2))
    best = float("inf")
    for look in range(_REPEATS):
        start = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
        if look >= 2 and best > 0.5:  # a CPU without bf16; the first looks also pay for loading the library
            break
    return 2 * _SIZE**3 / best / 1e9


@lru_cache(maxsize=1)
def read_bandwidth(seconds: float = 0.3) -> float:
    """Bytes per second this machine reads from memory with all threads: what bounds writing one token after another.

    The best of several passes over a buffer that no cache holds, so a busy neighbour lowers it less than an average.
    It is a lower bound: the reduction that reads costs a little itself.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    values = torch.ones(max(_READ_BYTES, 4 * _last_cache_bytes()) // 4, dtype=torch.int32, device=device)
    best, begun = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        int(values.amax())  # of all reductions the one that computes least; int() waits for a GPU
        best = min(best, time.perf_counter() - start)
    return values.nbytes / best


def _last_cache_bytes() -> int:
    """The size of the largest processor cache; 0 where the system does not say."""
    try:
        return 1024 * max(
            int(path.read_text().strip().removesuffix("K"))
            for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
        )
    except (OSError, ValueError):
        return 0


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

"""The figures of the kernels are what their names say."""

import pytest
import torch

from phi4.bench import kernels
from phi4.engine.kernels import select
from phi4.errors import UsageError
from phi4.model.config import Quantization


def test_speeds(monkeypatch: pytest.MonkeyPatch) -> None:
    if select(torch.device("cpu")).library is None:
        with pytest.raises(UsageError, match="no native kernels"):
            next(kernels.matmuls(Quantization(4, 32)))
        return
    monkeypatch.setattr(kernels, "_BEYOND_CACHE", 1 << 20)
    monkeypatch.setattr(kernels, "_best", lambda work: (work(), 1e-3)[1])
    small = list(kernels.matmuls(Quantization(8), rows=(1, 64), shapes={"o": (256, 512)}))
    assert [speed.rows for speed in small] == [1, 64]
    # int8 weights and a float16 scale per row, read once: every copy beyond the cache takes 1 ms divided by copies
    copies = -(-(1 << 20) // (256 * 512 + 256 * 2))
    assert small[0].read_gbs == pytest.approx((256 * 512 + 256 * 2) * copies / 1e6)
    assert small[1].gops == pytest.approx(2 * 64 * 256 * 512 / 1e6)
    assert small[0].bandwidth_gbs == pytest.approx((1 << 20) / 1e6)
    (speed,) = kernels.attention(torch.int8, length=64, rows=(2,), shape=(4, 2, 32))
    assert speed.what == "attention int8, 64 positions"
    assert "of 1.0)" in str(speed)

"""A layer in one call against the same layer call by call: bit for bit the same, cache included."""

import pytest
import torch
from torch import Tensor

from phi4.engine.kernels.cache import BLOCK, Decoding, PagedAttend, PagedKV
from phi4.engine.kernels.layers import NativeBlock
from phi4.engine.kernels.native import Library
from phi4.model.config import Quantization
from phi4.model.rope import RowRope
from tests.engine.kernels.test_choose import small_model


class Together(PagedAttend):
    """Never called: the layer is done in one go."""

    def __init__(self, decoding: Decoding) -> None:
        self.decoding = decoding

    def __call__(self, *_: object) -> Tensor:
        raise AssertionError("this step only decodes")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=str)
@pytest.mark.parametrize("count", [1, 3, 130])
@pytest.mark.parametrize("quantization", [Quantization(4, 32), Quantization(8)], ids=str)
def test_a_layer_in_one_call(
    library: Library, quantization: Quantization, count: int, dtype: torch.dtype
) -> None:
    model = small_model(quantization, tied=True)
    config = model.config
    block = NativeBlock(library, model.layers[1])
    lengths = torch.randint(1, 3 * BLOCK, (count,), generator=torch.Generator().manual_seed(1)).int()
    table = torch.arange(3 * count).view(count, 3).int()
    places = (lengths - 1).long()
    slots = table.gather(1, (places // BLOCK)[:, None])[:, 0] * BLOCK + places % BLOCK
    caches = []
    for _ in range(2):
        cache = PagedKV.empty(
            3 * count, config.num_key_value_heads, config.head_dim, dtype, torch.device("cpu")
        )
        generator = torch.Generator().manual_seed(2)
        shape = (3 * count * BLOCK, config.num_key_value_heads, config.head_dim)
        k, v = (torch.randn(shape, generator=generator) for _ in range(2))
        library.store(cache, k, v, torch.arange(len(k)))
        caches.append(cache)
    x = torch.randn((1, count, config.hidden_size), generator=torch.Generator().manual_seed(3))
    cos_sin = RowRope(config)(places[None])
    scale = config.head_dim**-0.5

    def apart(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        library.store(caches[0], k[0], v[0], slots)
        return library.attention(q[0], caches[0], table, lengths, scale)[None]

    expected = block(x.clone(), 1, cos_sin, apart)
    unused = PagedKV.empty(1, config.num_key_value_heads, config.head_dim, dtype, torch.device("cpu"))
    decoding = Decoding([unused, caches[1]], slots, table, lengths, scale)
    assert torch.equal(block(x.clone(), 1, cos_sin, Together(decoding)), expected)
    for first, second in zip(vars(caches[0]).values(), vars(caches[1]).values(), strict=False):
        if isinstance(first, Tensor):
            assert torch.equal(first, second)
    assert float((expected - x).abs().max()) > 0.01

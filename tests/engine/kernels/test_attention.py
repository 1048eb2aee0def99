"""The paged cache: what is stored, and attention over it against plain attention in float64."""

import pytest
import torch
from torch import Tensor

from phi4.engine.kernels import BLOCK, PagedKV, plain
from phi4.engine.kernels.native import Library
from phi4.model.rope import rotate
from phi4.model.transformer import RMSNorm

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int8]
HEADS = [(6, 2, 16), (24, 8, 128), (4, 4, 32), (8, 1, 96), (10, 2, 64)]  # query heads, groups, channels
LENGTHS = [0, 1, 31, 32, 33, 511, 512, 513, 1500, 77]
BLOCKS = 100


def filled(groups: int, channels: int, dtype: torch.dtype, seed: int = 0) -> tuple[PagedKV, Tensor, Tensor]:
    """A cache written in any order of slots, and the keys and values by slot."""
    generator = torch.Generator().manual_seed(seed)
    k_TGK, v_TGK = torch.randn(2, BLOCKS * BLOCK, groups, channels, generator=generator) * 2
    cache = PagedKV.empty(BLOCKS, groups, channels, dtype, CPU)
    slots = torch.randperm(len(k_TGK), generator=generator)
    plain.store(cache, k_TGK[slots], v_TGK[slots], slots)
    return cache, k_TGK, v_TGK


def table_of(rows: int, blocks: int) -> Tensor:
    return torch.randint(0, BLOCKS, (rows, blocks), generator=torch.Generator().manual_seed(3)).int()


def reference(q_NHK: Tensor, cache: PagedKV, table_NB: Tensor, lengths_N: Tensor, scale: float) -> Tensor:
    """One row, one head at a time."""
    o_NHK = torch.zeros(q_NHK.shape, dtype=torch.float64)
    shared = q_NHK.shape[1] // cache.k_PGCK.shape[1]
    for n, length in enumerate(lengths_N.tolist()):
        for h in range(q_NHK.shape[1] if length else 0):
            k_SGK, v_SGK = cache.gather(table_NB[n], length, torch.float64)
            score_S = k_SGK[:, h // shared] @ q_NHK[n, h].double() * scale
            o_NHK[n, h] = score_S.softmax(0) @ v_SGK[:, h // shared]
    return o_NHK


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", HEADS, ids=str)
def test_attention(library: Library, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    heads, groups, channels = shape
    cache, _, _ = filled(groups, channels, dtype)
    table, lengths = table_of(len(LENGTHS), 47), torch.tensor(LENGTHS, dtype=torch.int32)
    q = torch.randn(len(LENGTHS), heads, channels, generator=torch.Generator().manual_seed(1)) * 2
    o = library.attention(q, cache, table, lengths, channels**-0.5)
    torch.testing.assert_close(
        o.double(), reference(q, cache, table, lengths, channels**-0.5), rtol=1e-5, atol=2e-5
    )


def test_rows_alone_and_together_on_any_number_of_threads(library: Library) -> None:
    cache, _, _ = filled(2, 64, torch.bfloat16)
    table, lengths = table_of(len(LENGTHS), 47), torch.tensor(LENGTHS, dtype=torch.int32)
    q = torch.randn(len(LENGTHS), 6, 64, generator=torch.Generator().manual_seed(1))
    together = library.attention(q, cache, table, lengths, 0.125)
    for n in range(len(LENGTHS)):
        # narrower tables, as a batch of short sequences has
        blocks = max(1, -(-LENGTHS[n] // BLOCK))
        one = library.attention(q[n : n + 1], cache, table[n : n + 1, :blocks], lengths[n : n + 1], 0.125)
        assert torch.equal(one[0], together[n])
    torch.set_num_threads(2)
    try:
        assert torch.equal(library.attention(q, cache, table, lengths, 0.125), together)
    finally:
        torch.set_num_threads(1)


def test_large_scores_and_unwritten_positions(library: Library) -> None:
    """Scores far beyond exp's range, and rubbish behind the end of a sequence."""
    cache, _, _ = filled(1, 32, torch.float32)
    cache.k_PGCK[7, :, 20:] = float("nan")
    cache.v_PGCK[7, :, 20:] = float("nan")
    table, lengths = torch.tensor([[3, 7]], dtype=torch.int32), torch.tensor([52], dtype=torch.int32)
    q = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(2)) * 100
    o = library.attention(q, cache, table, lengths, 1.0)
    # Scores near 3,000 have float32 errors near 1e-4, which the softmax turns into relative ones.
    torch.testing.assert_close(o.double(), reference(q, cache, table, lengths, 1.0), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_store_equals_plain(library: Library, dtype: torch.dtype) -> None:
    """From strided views of a fused projection, in float32 and bfloat16; other slots stay as they were."""
    for source in (torch.float32, torch.bfloat16):
        qkv = (torch.randn(40, 8, 48) * 3).to(source)
        qkv[5] = 0
        slots = torch.randperm(6 * BLOCK)[:40]
        caches = [PagedKV.empty(6, 2, 48, dtype, CPU) for _ in range(2)]
        for cache, store in zip(caches, (library.store, plain.store), strict=True):
            store(cache, qkv[:, 4:6], qkv[:, 6:8], slots)
        mine, theirs = caches
        assert torch.equal(mine.k_PGCK, theirs.k_PGCK)
        assert torch.equal(mine.v_PGCK, theirs.v_PGCK)
        if dtype == torch.int8:
            assert mine.k_scale_PGC is not None
            assert theirs.k_scale_PGC is not None
            assert torch.equal(mine.k_scale_PGC, theirs.k_scale_PGC)
            assert int(mine.k_PGCK.abs().max()) == 127


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
def test_plain_cache(dtype: torch.dtype) -> None:
    cache, k_TGK, v_TGK = filled(
        2, 20, dtype
    )  # 20 channels: no vector is filled, the plain kernels serve all
    step = {torch.int8: 1 / 127, torch.bfloat16: 2**-8, torch.float16: 2**-11}.get(dtype, 1e-7)
    k_SGK, v_SGK = cache.gather(torch.tensor([4, 9, 1]), 70, torch.float64)
    positions = torch.tensor([4 * BLOCK + i for i in range(32)] + [9 * BLOCK + i for i in range(32)])
    for read, written in ((k_SGK, k_TGK), (v_SGK, v_TGK)):
        assert read.shape == (70, 2, 20)
        largest = written[positions].abs().amax(-1, keepdim=True)
        assert ((read[:64] - written[positions]).abs() <= step * largest).all()
    table, lengths = table_of(len(LENGTHS), 47), torch.tensor(LENGTHS, dtype=torch.int32)
    q = torch.randn(len(LENGTHS), 4, 20, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    o = plain.attention(q, cache, table, lengths, 0.2)
    assert o.dtype == q.dtype
    error = {torch.float64: 1e-12, torch.bfloat16: 0.03}.get(dtype, 1e-5)  # bf16 keys meet queries in bf16
    torch.testing.assert_close(o.double(), reference(q, cache, table, lengths, 0.2), rtol=error, atol=error)


def test_heads_that_fill_no_vector_go_to_the_plain_kernels(native: Library) -> None:
    cache, _, _ = filled(2, 20, torch.float32)
    table, lengths = table_of(2, 3), torch.tensor([5, 70], dtype=torch.int32)
    q = torch.randn(2, 4, 20)
    expected = plain.attention(q, cache, table, lengths, 0.2)
    assert torch.equal(native.attention(q, cache, table, lengths, 0.2), expected)
    native.store(cache, torch.ones(1, 2, 20), torch.ones(1, 2, 20), torch.tensor([33]))
    assert (cache.k_PGCK[1, :, 1] == 1).all()


def test_rope_equals_the_model_s(library: Library) -> None:
    fused = torch.randn(7, 9, 32)
    for turned in (32, 24, 2):
        cos, sin = torch.randn(2, 7, turned)
        mine = fused.clone()
        library.rope(mine[:, 1:6], cos, sin)
        assert torch.equal(mine[:, 1:6], rotate(fused[None, :, 1:6], cos[None], sin[None])[0])
        assert torch.equal(mine[:, 6:], fused[:, 6:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rms_norm_equals_the_model_s(library: Library, dtype: torch.dtype) -> None:
    norm = RMSNorm(176, 1e-5)
    torch.nn.init.normal_(norm.weight)
    x = (torch.randn(5, 176) * torch.logspace(-3, 3, 5)[:, None]).to(dtype)
    with torch.no_grad():
        mine, theirs = library.rms_norm(x, norm.weight, 1e-5), norm(x)
    assert mine.dtype == dtype
    # A float32 sum in another order can tip both roundings to bfloat16.
    torch.testing.assert_close(mine, theirs, rtol=1e-6 if dtype == torch.float32 else 2**-6, atol=0)

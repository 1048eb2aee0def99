"""Kernels for NVIDIA GPUs in Triton: what PyTorch's own operators would spread over many launches and passes.

A step that decodes reads every weight once and does little else, so all that is not a matmul is fused here: norm with
the residual before it, rotation, the gate, and attention over the paged cache. Everything is bf16 with float32
accumulation; other dtypes take the plain path.

Legend: M rows, D hidden channels, I inputs, O outputs, F mlp channels, N decoding rows, H query heads,
G key-value heads, K head channels, R rotary channels, B blocks of a row.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from phi4.engine.kernels import plain
from phi4.engine.kernels.cache import BLOCK, PagedKV
from phi4.model.linear import QuantizedLinear
from phi4.model.transformer import Attend, Block

_SPLIT = 8  # blocks of the cache that one program of the attention reads
_ROW_WORDS = 32  # words of a row that one step of a program reads
_LEAST_ROWS = 16  # rows of the smallest tensor-core product
_FEW_ROWS, _FEW_TILE = 32, 64  # rows up to which 4-bit weights are unpacked for each; outputs of a program


class GpuBlock(nn.Module):
    """One layer: `x` and what is to be added to it travel together, so that the sum is made inside the next norm."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block
        attention = block.self_attn
        self.heads, self.groups, self.head_dim = attention.heads, attention.groups, attention.head_dim

    def forward(self, x_BTD: Tensor, layer: int, cos_sin: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        block, (batch, time, _) = self.block, x_BTD.shape
        attention, mlp = block.self_attn, block.mlp
        x_MD = x_BTD.flatten(0, 1)
        h_MD, _ = add_norm(x_MD, None, block.input_layernorm.weight, block.input_layernorm.eps)
        qkv = _product(attention.qkv_proj, h_MD).view(batch * time, -1, self.head_dim)
        turned = self.heads + self.groups
        rope_(qkv, turned, *(table.expand(batch, -1, -1).flatten(0, 1) for table in cos_sin))
        parts = qkv.view(batch, time, -1, self.head_dim).split_with_sizes(
            (self.heads, self.groups, self.groups), 2
        )
        o_MD = _product(attention.o_proj, attend(layer, *parts).reshape(batch * time, -1))
        after = block.post_attention_layernorm
        h_MD, x_MD = add_norm(x_MD, o_MD, after.weight, after.eps)
        y_MD = _product(mlp.down_proj, gate(_product(mlp.gate_up_proj, h_MD)))
        return (x_MD + y_MD).view(x_BTD.shape)


def _product(linear: nn.Module, x_MI: Tensor) -> Tensor:
    """A matmul with a plain or a 4-bit weight."""
    if (
        isinstance(linear, QuantizedLinear)
        and linear.quantization.bits == 4
        and linear.quantization.group_size
    ):
        return int4_linear(linear, x_MI)
    result: Tensor = linear(x_MI)
    return result


@triton.jit
def _add_norm(x, y, gain, out, total, size, eps, ADD: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    inside = column < size
    value = tl.load(x + row * size + column, mask=inside, other=0.0)
    if ADD:
        value = value + tl.load(y + row * size + column, mask=inside, other=0.0)
        tl.store(total + row * size + column, value, mask=inside)
    wide = value.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, 0) / size + eps)
    weight = tl.load(gain + column, mask=inside, other=0.0)
    tl.store(out + row * size + column, weight * (wide * scale).to(weight.dtype), mask=inside)


def add_norm(x_MD: Tensor, y_MD: Tensor | None, gain_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(norm(x + y) * gain, x + y)."""
    rows, size = x_MD.shape
    out_MD = torch.empty_like(x_MD)
    total_MD = x_MD if y_MD is None else torch.empty_like(x_MD)
    added = x_MD if y_MD is None else y_MD
    width = triton.next_power_of_2(size)
    _add_norm[(rows,)](
        x_MD, added, gain_D, out_MD, total_MD, size, eps, ADD=y_MD is not None, WIDTH=width, num_warps=8
    )
    return out_MD, total_MD


@triton.jit
def _rope(x, cos, sin, heads, stride, CHANNELS: tl.constexpr, HALF: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    pair = tl.arange(0, WIDTH)
    inside = pair < HALF
    base = x + row * stride + head * CHANNELS
    first = tl.load(base + pair, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(base + HALF + pair, mask=inside, other=0.0).to(tl.float32)
    c = tl.load(cos + row * 2 * HALF + pair, mask=inside, other=0.0).to(tl.float32)
    s = tl.load(sin + row * 2 * HALF + pair, mask=inside, other=0.0).to(tl.float32)
    tl.store(base + pair, (first * c - second * s).to(x.dtype.element_ty), mask=inside)
    tl.store(base + HALF + pair, (second * c + first * s).to(x.dtype.element_ty), mask=inside)


def rope_(x_MHK: Tensor, heads: int, cos_MR: Tensor, sin_MR: Tensor) -> None:
    """Rotate the first `heads` heads of every row in place; both halves of a table's row are equal."""
    rows, _, channels = x_MHK.shape
    half = cos_MR.shape[1] // 2
    width = triton.next_power_of_2(half)
    cos_MR, sin_MR = cos_MR.contiguous(), sin_MR.contiguous()
    _rope[(rows, heads)](
        x_MHK, cos_MR, sin_MR, heads, x_MHK.stride(0), CHANNELS=channels, HALF=half, WIDTH=width, num_warps=1
    )


@triton.jit
def _gate(x, out, size, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = column < size
    gate = tl.load(x + row * 2 * size + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x + row * 2 * size + size + column, mask=inside, other=0.0)
    silu = (gate * tl.sigmoid(gate)).to(up.dtype)
    tl.store(out + row * size + column, up * silu, mask=inside)


def gate(x_MF: Tensor) -> Tensor:
    """up * silu(gate) of rows that hold gate, then up."""
    rows, size = x_MF.shape[0], x_MF.shape[1] // 2
    out_MF = torch.empty((rows, size), dtype=x_MF.dtype, device=x_MF.device)
    _gate[(rows, triton.cdiv(size, 1024))](x_MF, out_MF, size, WIDTH=1024, num_warps=4)
    return out_MF


@triton.jit
def _store(
    k, v, k_cache, v_cache, slots, k_stride, v_stride, groups, CHANNELS: tl.constexpr, PLACES: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    slot = tl.load(slots + row)
    channel = tl.arange(0, CHANNELS)
    target = ((slot // PLACES * groups + group) * PLACES + slot % PLACES) * CHANNELS + channel
    kind = k_cache.dtype.element_ty
    tl.store(k_cache + target, tl.load(k + row * k_stride + group * CHANNELS + channel).to(kind))
    tl.store(v_cache + target, tl.load(v + row * v_stride + group * CHANNELS + channel).to(kind))


def store(cache: PagedKV, k_TGK: Tensor, v_TGK: Tensor, slots_T: Tensor) -> None:
    """Write keys and values to their slots."""
    rows, groups, channels = k_TGK.shape
    if not _fits(cache):
        return plain.store(cache, k_TGK, v_TGK, slots_T)
    if k_TGK.stride(1) != channels or v_TGK.stride(1) != channels:
        k_TGK, v_TGK = k_TGK.contiguous(), v_TGK.contiguous()
    _store[(rows, groups)](
        *(k_TGK, v_TGK, cache.k_PGCK, cache.v_PGCK, slots_T, k_TGK.stride(0), v_TGK.stride(0), groups),
        CHANNELS=channels,
        PLACES=BLOCK,
        num_warps=1,
    )
    return None


@triton.jit
def _attention(
    q, k_cache, v_cache, table, lengths, out, largest, mass, scale, q_stride, table_stride, groups,
    REPEAT: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, PLACES: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    part = tl.program_id(2)
    length = tl.load(lengths + row)
    head = tl.arange(0, ROWS)
    channel = tl.arange(0, CHANNELS)
    place = tl.arange(0, PLACES)
    real = head < REPEAT
    query = tl.load(
        q + row * q_stride + (group * REPEAT + head)[:, None] * CHANNELS + channel[None, :],
        mask=real[:, None],
        other=0.0,
    )
    best = tl.full((ROWS,), -1e30, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    sums = tl.zeros((ROWS, CHANNELS), tl.float32)
    first = part * SPLIT
    last = tl.minimum(first + SPLIT, tl.cdiv(length, PLACES))
    for number in range(first, last):
        block = tl.load(table + row * table_stride + number).to(tl.int64)
        base = (block * groups + group) * PLACES * CHANNELS
        seen = number * PLACES + place < length
        spot = base + place[:, None] * CHANNELS + channel[None, :]
        key = tl.load(k_cache + spot).to(query.dtype)
        score = tl.dot(query, tl.trans(key)) * scale
        score = tl.where(seen[None, :], score, -1e30)
        new = tl.maximum(best, tl.max(score, 1))
        shrink = tl.exp(best - new)
        weight = tl.exp(score - new[:, None])
        value = tl.load(v_cache + spot).to(query.dtype)
        total = total * shrink + tl.sum(weight, 1)
        sums = sums * shrink[:, None] + tl.dot(weight.to(query.dtype), value)
        best = new
    parts = tl.num_programs(2)
    slot = ((row * groups + group) * parts + part) * REPEAT + head
    tl.store(largest + slot, best, mask=real)
    tl.store(mass + slot, total, mask=real)
    tl.store(out + slot[:, None] * CHANNELS + channel[None, :], sums, mask=real[:, None])


@triton.jit
def _merge(
    sums, largest, mass, out, heads, parts, REPEAT: tl.constexpr, CHANNELS: tl.constexpr, PARTS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    part = tl.arange(0, PARTS)
    channel = tl.arange(0, CHANNELS)
    inside = part < parts
    slot = ((row * (heads // REPEAT) + head // REPEAT) * parts + part) * REPEAT + head % REPEAT
    best = tl.load(largest + slot, mask=inside, other=-1e30)
    share = tl.exp(best - tl.max(best, 0))
    total = tl.sum(tl.load(mass + slot, mask=inside, other=0.0) * share, 0)
    part_sums = tl.load(sums + slot[:, None] * CHANNELS + channel[None, :], mask=inside[:, None], other=0.0)
    value = tl.sum(part_sums * share[:, None], 0) / tl.maximum(total, 1e-30)
    tl.store(out + (row * heads + head) * CHANNELS + channel, value.to(out.dtype.element_ty))


def attention(q_NHK: Tensor, cache: PagedKV, table_NB: Tensor, lengths_N: Tensor, scale: float) -> Tensor:
    """One query per row over its cached positions, the context split over programs and merged; see plain.attention."""
    if not _fits(cache):
        return plain.attention(q_NHK, cache, table_NB, lengths_N, scale)
    rows, heads, channels = q_NHK.shape
    groups = cache.k_PGCK.shape[1]
    repeat, parts = heads // groups, triton.cdiv(table_NB.shape[1], _SPLIT)
    sums = torch.empty((rows, groups, parts, repeat, channels), device=q_NHK.device)
    largest, mass = torch.empty((2, rows, groups, parts, repeat), device=q_NHK.device)
    if q_NHK.stride(1) != channels:
        q_NHK = q_NHK.contiguous()
    _attention[(rows, groups, parts)](
        *(q_NHK, cache.k_PGCK, cache.v_PGCK, table_NB, lengths_N, sums, largest, mass),
        *(scale, q_NHK.stride(0), table_NB.stride(0), groups),
        REPEAT=repeat,
        ROWS=max(_LEAST_ROWS, triton.next_power_of_2(repeat)),
        CHANNELS=channels,
        PLACES=BLOCK,
        SPLIT=_SPLIT,
        num_warps=4,
    )
    out_NHK = torch.empty((rows, heads, channels), dtype=q_NHK.dtype, device=q_NHK.device)
    _merge[(rows, heads)](
        *(sums, largest, mass, out_NHK, heads, parts),
        REPEAT=repeat,
        CHANNELS=channels,
        PARTS=triton.next_power_of_2(parts),
        num_warps=4,
    )
    return out_NHK


@triton.jit
def _int4(
    x, words, scales, out, rows, outputs, inputs, scale_stride,
    GROUP: tl.constexpr, TILE_M: tl.constexpr, TILE_O: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1) * TILE_M + tl.arange(0, TILE_M)
    column = tl.program_id(0) * TILE_O + tl.arange(0, TILE_O)
    word = tl.arange(0, GROUP // 8)
    shift = tl.arange(0, 8) * 4
    inner = tl.arange(0, GROUP)
    sums = tl.zeros((TILE_M, TILE_O), tl.float32)
    for group in range(0, inputs // GROUP):
        packed = tl.load(
            words + column[:, None].to(tl.int64) * (inputs // 8) + group * (GROUP // 8) + word[None, :],
            mask=(column < outputs)[:, None],
            other=0,
        )
        value = ((packed[:, :, None] >> shift[None, None, :]) & 15) - 8
        scale = tl.load(scales + column.to(tl.int64) * scale_stride + group, mask=column < outputs, other=0.0)
        weight = tl.reshape(value, (TILE_O, GROUP)).to(tl.bfloat16)
        piece = tl.load(
            x + row[:, None].to(tl.int64) * inputs + group * GROUP + inner[None, :],
            mask=(row < rows)[:, None],
            other=0.0,
        )
        sums += tl.dot(piece, tl.trans(weight)) * scale.to(tl.float32)[None, :]
    tl.store(
        out + row[:, None].to(tl.int64) * outputs + column[None, :],
        sums.to(out.dtype.element_ty),
        mask=(row < rows)[:, None] & (column < outputs)[None, :],
    )


@triton.jit
def _int4_row(
    x, words, scales, out, outputs, inputs, scale_stride,
    GROUP: tl.constexpr, TILE_O: tl.constexpr, WORDS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * TILE_O + tl.arange(0, TILE_O)
    part = tl.program_id(1)
    word = tl.arange(0, WORDS)
    inside = column < outputs
    steps = inputs // 8 // WORDS // PARTS
    rows = words + column[:, None].to(tl.int64) * (inputs // 8)
    scale_rows = scales + column[:, None].to(tl.int64) * scale_stride
    sums = tl.zeros((TILE_O, WORDS), tl.float32)
    for step in range(part * steps, part * steps + steps):
        at = step * WORDS + word
        packed = tl.load(rows + at[None, :], mask=inside[:, None], other=0)
        scale = tl.load(scale_rows + (at * 8 // GROUP)[None, :], mask=inside[:, None], other=0.0)
        product = tl.zeros((TILE_O, WORDS), tl.float32)
        for place in tl.static_range(8):
            value = (((packed >> (4 * place)) & 15) - 8).to(tl.float32)
            product += value * tl.load(x + at * 8 + place).to(tl.float32)[None, :]
        sums += product * scale.to(tl.float32)
    tl.store(out + part * outputs + column, tl.sum(sums, 1), mask=inside)


def _int4_one(linear: QuantizedLinear, x_1I: Tensor, parts: int) -> Tensor:
    """One row: no tensor cores, as many loads in flight as the memory takes (tiles measured on an H100)."""
    inputs, outputs = x_1I.shape[1], len(linear.weight_packed)
    out_PO = torch.empty((parts, outputs), device=x_1I.device)
    tile = 64 if outputs > inputs else 16
    _int4_row[(triton.cdiv(outputs, tile), parts)](
        *(x_1I.contiguous(), linear.weight_packed, linear.weight_scale, out_PO),
        *(outputs, inputs, linear.weight_scale.stride(0)),
        GROUP=linear.quantization.group_size,
        TILE_O=tile,
        WORDS=_ROW_WORDS,
        PARTS=parts,
        num_warps=4,
        num_stages=4,
    )
    return out_PO.sum(0, keepdim=True).to(x_1I.dtype)


@triton.jit
def _int4_rows(
    x, words, scales, out, rows, outputs, inputs, scale_stride,
    GROUP: tl.constexpr, TILE_M: tl.constexpr, TILE_O: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * TILE_O + tl.arange(0, TILE_O)
    part = tl.program_id(1)
    row = tl.arange(0, TILE_M)
    word = tl.arange(0, GROUP // 8)
    across = inputs // 8
    steps = inputs // GROUP // PARTS
    inside = column < outputs
    sums = tl.zeros((TILE_M, TILE_O), tl.float32)
    for group in range(part * steps, part * steps + steps):
        at = group * (GROUP // 8) + word
        packed = tl.load(
            words + column[None, :].to(tl.int64) * across + at[:, None], mask=inside[None, :], other=0
        )
        scale = tl.load(scales + column.to(tl.int64) * scale_stride + group, mask=inside, other=0.0)
        product = tl.zeros((TILE_M, TILE_O), tl.float32)
        for place in tl.static_range(8):
            weight = (((packed >> (4 * place)) & 15) - 8).to(tl.bfloat16)
            piece = tl.load(
                x + row[:, None] * inputs + place * across + at[None, :],
                mask=(row < rows)[:, None],
                other=0.0,
            )
            product = tl.dot(piece, weight, product)
        sums += product * scale.to(tl.float32)[None, :]
    tl.store(
        out + (part * rows + row[:, None]).to(tl.int64) * outputs + column[None, :],
        sums,
        mask=(row < rows)[:, None] & inside[None, :],
    )


def _int4_few(linear: QuantizedLinear, x_MI: Tensor) -> Tensor:
    """A batch of rows: each of the eight weights of a word meets its own inputs, so nothing is put in order."""
    rows, inputs = x_MI.shape
    outputs, group = len(linear.weight_packed), linear.quantization.group_size
    parts = next(n for n in (4, 2, 1) if inputs // group % n == 0) if outputs < 4 * inputs else 1
    out_PMO = torch.empty((parts, rows, outputs), device=x_MI.device)
    apart_M8W = x_MI.view(rows, inputs // 8, 8).transpose(1, 2).contiguous()
    _int4_rows[(triton.cdiv(outputs, _FEW_TILE), parts)](
        *(apart_M8W, linear.weight_packed, linear.weight_scale, out_PMO),
        *(rows, outputs, inputs, linear.weight_scale.stride(0)),
        GROUP=group,
        TILE_M=max(_LEAST_ROWS, triton.next_power_of_2(rows)),
        TILE_O=_FEW_TILE,
        PARTS=parts,
        num_warps=4,
        num_stages=4,
    )
    return out_PMO.sum(0).to(x_MI.dtype) if parts > 1 else out_PMO[0].to(x_MI.dtype)


@triton.jit
def _unpack(words, scales, out, across, scale_stride, GROUP: tl.constexpr, WORDS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    word = tl.program_id(1) * WORDS + tl.arange(0, WORDS)
    place = tl.arange(0, 8)
    inside = word < across
    packed = tl.load(words + row * across + word, mask=inside, other=0)
    scale = tl.load(scales + row * scale_stride + word * 8 // GROUP, mask=inside, other=0.0)
    value = (((packed[:, None] >> (4 * place)[None, :]) & 15) - 8).to(tl.float32) * scale.to(tl.float32)[
        :, None
    ]
    target = out + row * across * 8 + word[:, None] * 8 + place[None, :]
    tl.store(target, value.to(out.dtype.element_ty), mask=inside[:, None])


def _int4_many(linear: QuantizedLinear, x_MI: Tensor) -> Tensor:
    """Many rows: unpacked once to bf16, what the rows are worth, and multiplied by the library."""
    outputs, across = linear.weight_packed.shape
    weight_OI = torch.empty((outputs, 8 * across), dtype=x_MI.dtype, device=x_MI.device)
    _unpack[(outputs, triton.cdiv(across, 256))](
        *(linear.weight_packed, linear.weight_scale, weight_OI, across, linear.weight_scale.stride(0)),
        GROUP=linear.quantization.group_size,
        WORDS=256,
        num_warps=4,
    )
    return x_MI @ weight_OI.T


def int4_linear(linear: QuantizedLinear, x_MI: Tensor) -> Tensor:
    """x_MI times a weight of 4 bits in groups."""
    rows, inputs = x_MI.shape
    outputs = len(linear.weight_packed)
    parts = next((n for n in (4, 2, 1) if inputs % (8 * _ROW_WORDS * n) == 0), 0)
    if rows == 1 and parts:
        return _int4_one(linear, x_MI, parts)
    if rows > _FEW_ROWS:
        return _int4_many(linear, x_MI)
    if linear.quantization.group_size >= 8 * _LEAST_ROWS:
        return _int4_few(linear, x_MI)
    out_MO = torch.empty((rows, outputs), dtype=x_MI.dtype, device=x_MI.device)
    tile_o, tile_m = 32, 16
    _int4[(triton.cdiv(outputs, tile_o), triton.cdiv(rows, tile_m))](
        *(x_MI.contiguous(), linear.weight_packed, linear.weight_scale, out_MO),
        *(rows, outputs, inputs, linear.weight_scale.stride(0)),
        GROUP=linear.quantization.group_size,
        TILE_M=tile_m,
        TILE_O=tile_o,
        num_warps=4,
    )
    return out_MO


def _fits(cache: PagedKV) -> bool:
    """Only whole caches of heads whose width is a power of two; the others take the plain path."""
    channels = cache.k_PGCK.shape[-1]
    whole = cache.k_PGCK.dtype in (torch.bfloat16, torch.float16)
    return whole and channels >= _LEAST_ROWS and channels & (channels - 1) == 0

"""native.cpp's functions on tensors.

Every call hands plain addresses to C, so shapes, dtypes and contiguity are checked or made right here. A decode step
makes some hundred calls: they do as little in Python as they can.

Legend: as in plain, and D hidden channels.
"""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from phi4.engine.kernels import build, plain
from phi4.engine.kernels.cache import LANES, TYPES, Decoding, PagedKV
from phi4.model.linear import QuantizedLinear

TILE = 32  # outputs of a tile, as in native.cpp
_GROUPS = (128, 64, 32)  # inputs that share a scale of the activations, where the weights do not say
_ROW_TYPES = (torch.float32, torch.bfloat16)  # of activations

_pointer, _int32, _int64, _float = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_float

_SIGNATURES: dict[str, tuple[type, ...]] = {
    "phi4_advise": (_pointer, _int64),
    "phi4_read": (_pointer, _int64, _int32),
    "phi4_pack": (_pointer, _int64, _int64, _int32, _pointer, _int32),
    "phi4_linear": (_pointer, _pointer, _int32, _int64, _pointer, _pointer, _int32, _int32),
    "phi4_rms_norm": (_pointer, _int32, _int64, _int64, _pointer, _int32, _float, _pointer, _int32),
    "phi4_rope": (_pointer, _int64, _int64, _int64, _int64, _pointer, _pointer, _int64, _int32),
    "phi4_store": (_pointer, _pointer, _int64, _pointer, _int64, _int32, _pointer, _int64, _int32),
    "phi4_attention": (
        *(_pointer, _pointer, _int64, _int64, _int64, _pointer, _int64),
        *(_pointer, _float, _pointer, _int32),
    ),
    "phi4_decode": (_pointer, _pointer, _pointer, _pointer, _int64, _int32),
}


class _Layer(ctypes.Structure):
    """`Layer` of native.cpp."""

    _fields_ = (
        *((name, _pointer) for name in ("words", "scales", "gain")),
        *((name, _int64) for name in ("outputs", "inputs")),
        *((name, _int32) for name in ("bits", "group", "scale_type", "scale_per_row", "gain_type", "gated")),
        ("eps", _float),
    )


class Block(ctypes.Structure):
    """`Block` of native.cpp: the matrices of one layer; see `describe_block`."""

    _fields_ = (*((name, _pointer) for name in ("qkv", "o", "gate_up", "down")), ("heads", _int64))


class _Step(ctypes.Structure):
    """`Step` of native.cpp."""

    _fields_ = (
        *((name, _pointer) for name in ("cos", "sin")),
        ("turned", _int64),
        *((name, _pointer) for name in ("slots", "table")),
        ("table_stride", _int64),
        ("lengths", _pointer),
        ("scale", _float),
    )


class Matrix:
    """A quantised matrix in tiles, ready to multiply; see `Library.matrix`. It keeps the memory it points to."""

    def __init__(self, layer: _Layer, kept: list[Tensor]) -> None:
        self.outputs: int = layer.outputs // 2 if layer.gated else layer.outputs
        self.inputs: int = layer.inputs
        self.address = ctypes.addressof(layer)
        self.bytes = sum(tensor.nbytes for tensor in kept)
        self._kept = (layer, kept)


class Library:
    """The compiled kernels. `name` says for which instruction set: avx512vnni, avx2vnni, avx2 or portable."""

    def __init__(self, path: Path) -> None:
        """Raises BuildError when `path` cannot be loaded or is not this library."""
        dll = build.load(path)
        try:
            dll.phi4_name.restype = ctypes.c_char_p
            self.name: str = dll.phi4_name().decode()
            for name, types in _SIGNATURES.items():
                function = getattr(dll, name)
                function.argtypes, function.restype = types, None
        except AttributeError as error:
            raise build.BuildError(f"{path} does not hold the kernels: {error}") from error
        self._dll = dll
        self._linear = dll.phi4_linear

    # ---- matmuls

    def matrix(
        self, linear: QuantizedLinear, gain: Tensor | None = None, eps: float = 0.0, gated: bool = False
    ) -> Matrix:
        """The tiles of a quantised linear map, which `fits`; `linear` is no longer needed afterwards.

        With `gain`, inputs go through RMSNorm first. With `gated`, the first half of the outputs is the gate of
        the second: the result is silu(gate) * up, half as wide. Scales become the narrowest type that holds them.
        """
        quantization = linear.quantization
        words_OW = linear.weight_packed.contiguous()
        outputs, inputs = words_OW.shape[0], words_OW.shape[1] * 32 // quantization.bits
        padded = -(-outputs // TILE) * TILE
        tiles = torch.empty(padded * inputs * quantization.bits // 8, dtype=torch.uint8)
        self._dll.phi4_advise(tiles.data_ptr(), tiles.nbytes)
        self._dll.phi4_pack(
            *(words_OW.data_ptr(), outputs, inputs, quantization.bits, tiles.data_ptr()),
            torch.get_num_threads(),
        )
        scale_OS = _narrowest(linear.weight_scale.detach())
        scales = scale_OS.new_zeros((padded, scale_OS.shape[1]))
        scales[:outputs] = scale_OS
        scales = scales.view(padded // TILE, TILE, -1).transpose(1, 2).contiguous()
        # A gain that stayed mapped to its file would keep the whole file in memory.
        kept = [tiles, scales] if gain is None else [tiles, scales, gain.detach().clone()]
        layer = _Layer(
            words=tiles.data_ptr(),
            scales=scales.data_ptr(),
            gain=None if gain is None else kept[2].data_ptr(),
            outputs=outputs,
            inputs=inputs,
            bits=quantization.bits,
            group=activation_group(quantization.group_size, inputs),
            scale_type=TYPES[scales.dtype],
            scale_per_row=not quantization.group_size,
            gain_type=0 if gain is None else TYPES[gain.dtype],
            gated=gated,
            eps=eps,
        )
        return Matrix(layer, kept)

    def linear(self, matrix: Matrix, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """x[..., I] times the matrix, plus `residual`, in the dtype of x (float32, bfloat16; others by float32).

        Inputs are rounded to int8, one scale per group. A row's result does not depend on the other rows.
        """
        if x.dtype not in _ROW_TYPES:
            y = self.linear(matrix, x.float())
            return (y if residual is None else y + residual).to(x.dtype)
        x = x.contiguous()
        assert x.shape[-1] == matrix.inputs
        y = torch.empty((*x.shape[:-1], matrix.outputs), dtype=x.dtype)
        if residual is not None:
            residual = residual.contiguous()
            assert (residual.shape, residual.dtype) == (y.shape, y.dtype)
        kind = 0 if x.dtype == torch.float32 else 1
        self._linear(
            *(matrix.address, x.data_ptr(), kind, x.numel() // matrix.inputs),
            *(None if residual is None else residual.data_ptr(), y.data_ptr(), kind, torch.get_num_threads()),
        )
        return y

    # ---- the steps between

    def rms_norm(self, x: Tensor, gain_D: Tensor, eps: float) -> Tensor:
        """RMSNorm of x[..., D], float32 or bfloat16, D a multiple of 16; as phi4.model.transformer.RMSNorm."""
        x = x.contiguous()
        size = x.shape[-1]
        assert size % LANES == 0
        gain_D = gain_D.contiguous()
        y = torch.empty_like(x)
        self._dll.phi4_rms_norm(
            *(x.data_ptr(), TYPES[x.dtype], x.numel() // size, size, gain_D.data_ptr(), TYPES[gain_D.dtype]),
            *(eps, y.data_ptr(), torch.get_num_threads()),
        )
        return y

    def rope(self, x_THK: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> None:
        """Rotate the first R channels of each head in place; float32, heads contiguous; as phi4.model.rope.rotate."""
        tokens, heads, channels = x_THK.shape
        assert x_THK.dtype == cos_TR.dtype == torch.float32
        assert x_THK.stride()[1:] == (channels, 1)
        cos_TR, sin_TR = cos_TR.contiguous(), sin_TR.contiguous()
        self._dll.phi4_rope(
            *(x_THK.data_ptr(), tokens, x_THK.stride(0), heads, channels),
            *(cos_TR.data_ptr(), sin_TR.data_ptr(), cos_TR.shape[-1], torch.get_num_threads()),
        )

    # ---- the paged cache

    def store(self, cache: PagedKV, k_TGK: Tensor, v_TGK: Tensor, slots_T: Tensor) -> None:
        """As plain.store."""
        if not cache.described_at:
            plain.store(cache, k_TGK, v_TGK, slots_T)
            return
        k_TGK, v_TGK = _rows(k_TGK), _rows(v_TGK)
        assert (slots_T.dtype, v_TGK.dtype) == (torch.int64, k_TGK.dtype)
        slots_T = slots_T.contiguous()
        self._dll.phi4_store(
            *(cache.described_at, k_TGK.data_ptr(), k_TGK.stride(0), v_TGK.data_ptr(), v_TGK.stride(0)),
            *(TYPES[k_TGK.dtype], slots_T.data_ptr(), len(slots_T), torch.get_num_threads()),
        )

    def attention(
        self, q_NHK: Tensor, cache: PagedKV, table_NB: Tensor, lengths_N: Tensor, scale: float
    ) -> Tensor:
        """As plain.attention; the dtype of q is kept, arithmetic is float32. A row's result is its own alone."""
        if not cache.described_at:
            return plain.attention(q_NHK, cache, table_NB, lengths_N, scale)
        q = _rows(q_NHK.float())
        rows, heads, channels = q.shape
        table_NB, lengths_N = table_NB.contiguous(), lengths_N.contiguous()
        assert table_NB.dtype == lengths_N.dtype == torch.int32
        o_NHK = torch.empty((rows, heads, channels))
        self._dll.phi4_attention(
            *(cache.described_at, q.data_ptr(), q.stride(0), rows, heads, table_NB.data_ptr()),
            *(table_NB.shape[1], lengths_N.data_ptr(), scale, o_NHK.data_ptr(), torch.get_num_threads()),
        )
        return o_NHK if q_NHK.dtype == torch.float32 else o_NHK.to(q_NHK.dtype)

    def decode(
        self, block: Block, cache: PagedKV, rows: Decoding, x_1TD: Tensor, cos_1TR: Tensor, sin_1TR: Tensor
    ) -> Tensor:
        """One whole layer of a step that only decodes, float32; the result takes the place of x."""
        x = x_1TD.contiguous()
        cos, sin, slots = cos_1TR.contiguous(), sin_1TR.contiguous(), rows.slots_D.contiguous()
        table, lengths = rows.table_DB.contiguous(), rows.lengths_D.contiguous()
        assert (cos.dtype, slots.dtype, table.dtype) == (torch.float32, torch.int64, torch.int32)
        count = len(lengths)
        assert x.numel() == count * x.shape[-1]
        assert cos.numel() == count * cos.shape[-1]
        step = _Step(
            *(cos.data_ptr(), sin.data_ptr(), cos.shape[-1], slots.data_ptr(), table.data_ptr()),
            *(table.shape[1], lengths.data_ptr(), rows.scale),
        )
        self._dll.phi4_decode(
            *(ctypes.addressof(block), cache.described_at, ctypes.addressof(step), x.data_ptr(), count),
            torch.get_num_threads(),
        )
        return x

    def read(self, memory: Tensor) -> None:
        """Read all bytes of a tensor: the measure of bandwidth."""
        self._dll.phi4_read(memory.data_ptr(), memory.nbytes, torch.get_num_threads())


def describe_block(qkv: Matrix, o: Matrix, gate_up: Matrix, down: Matrix, heads: int) -> Block:
    """One layer for `Library.decode`; the matrices must outlive it."""
    return Block(qkv.address, o.address, gate_up.address, down.address, heads)


def activation_group(group_size: int, inputs: int) -> int:
    """Inputs that share a scale of the activations: the weights' group, else the largest that divides; 0: none."""
    return group_size or next((group for group in _GROUPS if inputs % group == 0), 0)


def fits(linear: QuantizedLinear) -> bool:
    """Can `Library.matrix` take this map? Rows of a multiple of 32 inputs on the CPU."""
    quantization = linear.quantization
    inputs = linear.weight_packed.shape[1] * 32 // quantization.bits
    group = activation_group(quantization.group_size, inputs)
    return linear.weight_packed.device.type == "cpu" and group > 0 and inputs % group == 0


def _narrowest(scales: Tensor) -> Tensor:
    """The scales in 16 bits if that loses nothing, else in float32."""
    for dtype in (torch.bfloat16, torch.float16):
        narrow = scales.to(dtype)
        if torch.equal(narrow.to(scales.dtype), scales):
            return narrow
    return scales.float()


def _rows(x_THK: Tensor) -> Tensor:
    """float32 or bfloat16 with the heads of a token side by side; tokens may lie apart."""
    x_THK = x_THK if x_THK.dtype in _ROW_TYPES else x_THK.float()
    return x_THK if x_THK.stride()[1:] == (x_THK.shape[2], 1) else x_THK.contiguous()

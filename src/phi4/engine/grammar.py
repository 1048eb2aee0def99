"""Answers of a prescribed form: which tokens may come next, by JSON Schema, regular expression or list of choices.

llguidance does the parsing. What a caller sends is untrusted: it is measured before it is compiled, so that neither
the compiler's stack nor its time can be exhausted, and whatever cannot be enforced exactly is refused, never ignored.

JSON is compact or has at most 16 characters of white space between two parts, so that no answer gets lost in blanks.
"""

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from phi4.errors import ModelError
from phi4.text.generation import Grammar
from phi4.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_SOURCE = 1 << 16  # characters
_REGEX = 4096  # characters, of all patterns of a schema together
_DEPTH = 64  # levels of a schema as it is written
_LEVELS = 600  # with the depth of everything its references lead to: the compiler recurses that deep
_VALUES = 4000  # objects, lists, strings and numbers in a schema
_SPACE = r"[\x20\x0A\x0D\x09]{1,16}"


class Matcher:
    """Follows one answer. Raises ModelError when the grammar has become too ambiguous to be followed."""

    def __init__(self, matcher: "LLMatcher", rows: int, stops: Iterable[int]) -> None:
        self._matcher, self._rows = matcher, rows
        self._stops = np.zeros(-(-rows // 32), dtype=np.int32)
        for id in stops:
            if 0 <= id < rows:
                self._stops.view(np.uint32)[id // 32] |= np.uint32(1 << (id % 32))

    @property
    def stop_allowed(self) -> bool:
        """Is the answer complete as it is?"""
        return self._matcher.is_accepting()

    @property
    def finished(self) -> bool:
        """Is the answer complete, and can nothing follow?"""
        return self._matcher.is_stopped() and self._matcher.is_accepting()

    def mask(self) -> Tensor:
        """int32 bitmask of the tokens that may come next, bit i % 32 of word i // 32 for token i.

        Stop tokens are among them exactly when the answer is complete. Rows without a token never are.
        """
        accepting = self._matcher.is_accepting()
        words = np.zeros_like(self._stops)
        if not self._matcher.is_stopped():
            found = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.int32)
            self._check()
            words[:] = found[: len(words)]
            if self._rows % 32:  # the compiler's own end token is the first bit behind the vocabulary
                words.view(np.uint32)[-1] &= np.uint32((1 << (self._rows % 32)) - 1)
        if accepting:
            words |= self._stops
        if not words.any():
            raise ModelError("no token of this vocabulary can go on with what the grammar asks for")
        return torch.from_numpy(words)

    def advance(self, id: int) -> None:
        """A token was written that the mask allowed."""
        if not self._matcher.consume_token(id):
            raise ModelError(f"token {id} is not what the grammar asks for")

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ModelError(f"the grammar cannot be followed: {_reason(self._matcher.get_error())}")


class CompiledGrammar:
    """A grammar that holds for any number of answers."""

    def __init__(self, matcher: "LLMatcher", rows: int, stops: tuple[int, ...]) -> None:
        self._matcher, self._rows, self._stops = matcher, rows, stops

    def matcher(self, stops: Iterable[int] | None = None) -> Matcher:
        """For a new answer. `stops`: tokens that end it, instead of the tokenizer's own."""
        return Matcher(self._matcher.deep_copy(), self._rows, self._stops if stops is None else stops)


def compile_grammar(grammar: Grammar, tokenizer: Tokenizer, rows: int) -> CompiledGrammar:
    """Prepare a grammar for a network whose vocabulary has `rows` rows.

    Raises ModelError with one line when it is not valid, asks for something that cannot be enforced, is too large,
    or allows no answer in this vocabulary.
    """
    try:
        from llguidance import LLMatcher, LLParserLimits
    except ImportError as error:
        raise ModelError(
            "structured output needs the package llguidance", "pip install llguidance"
        ) from error

    if len(grammar.source) > _SOURCE:
        raise ModelError(
            f"the {_NAMES[grammar.kind]} has {len(grammar.source)} characters; {_SOURCE} are allowed"
        )
    limits = LLParserLimits(
        initial_lexer_fuel=500_000,
        step_lexer_fuel=100_000,
        step_max_items=50_000,
        max_lexer_states=50_000,
        max_grammar_size=100_000,
        precompute_large_lexemes=False,
        verbose_errors=False,
    )
    try:
        matcher = LLMatcher(_vocabulary(tokenizer, rows), _source(grammar), log_level=0, limits=limits)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"the {_NAMES[grammar.kind]} is not valid: {_reason(str(error))}") from error
    if matcher.is_error():
        raise ModelError(f"the {_NAMES[grammar.kind]} cannot be used: {_reason(matcher.get_error())}")
    compiled = CompiledGrammar(matcher, rows, tokenizer.stop_ids)
    try:
        compiled.matcher().mask()
    except ModelError as error:
        raise ModelError(f"the {_NAMES[grammar.kind]} allows no answer: {error.message}") from error
    return compiled


_NAMES = {"json_schema": "JSON schema", "regex": "regular expression", "choice": "list of choices"}


def _source(grammar: Grammar) -> str:
    """The grammar in llguidance's own form. Raises ModelError."""
    from llguidance import LLMatcher, regex_to_lark

    if grammar.kind == "json_schema":
        schema = _parsed(grammar)
        if not isinstance(schema, dict):
            raise ModelError("the JSON schema is not an object")
        _measure(schema)
        # Stated last, these win over what a schema may say about itself under "x-guidance".
        return LLMatcher.grammar_from_json_schema(
            schema, overrides={"whitespace_flexible": True, "whitespace_pattern": _SPACE, "lenient": False}
        )
    if grammar.kind == "regex":
        if len(grammar.source) > _REGEX:
            raise ModelError(
                f"the regular expression has {len(grammar.source)} characters; {_REGEX} are allowed"
            )
        # "d": \d means 0 to 9, not every script's digits.
        return LLMatcher.grammar_from_lark(f"start: /{regex_to_lark(grammar.source, 'd')}/")
    if grammar.kind == "choice":
        choices = _parsed(grammar)
        if not isinstance(choices, list) or not choices or not all(isinstance(c, str) and c for c in choices):
            raise ModelError("the list of choices is not a JSON list of strings that are not empty")
        return LLMatcher.grammar_from_regex("|".join("".join(map(_literal, choice)) for choice in choices))
    raise ModelError(f"a grammar of kind {grammar.kind!r:.40} is not known", f"known are {', '.join(_NAMES)}")


def _literal(character: str) -> str:
    return character if character.isalnum() else f"\\x{{{ord(character):x}}}"


def _parsed(grammar: Grammar) -> Any:
    try:
        return json.loads(grammar.source)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"the {_NAMES[grammar.kind]} is not JSON: {error!s:.100}") from error


def _measure(schema: dict[str, Any]) -> None:
    """Raises ModelError for a schema that is too large or refers to something outside itself."""
    values = regex = 0
    references: set[str] = set()
    rest: list[tuple[Any, int]] = [(schema, 1)]
    while rest:
        value, depth = rest.pop()
        values += 1
        if depth > _DEPTH:
            raise ModelError(f"the JSON schema is nested too deeply: {_DEPTH} levels are allowed")
        if isinstance(value, list):
            rest += [(child, depth + 1) for child in value]
        elif isinstance(value, dict):
            rest += [(child, depth + 1) for child in value.values()]
            if isinstance(reference := value.get("$ref"), str):
                references.add(reference)
            if depth > 1 and isinstance(value.get("$id"), str):
                raise ModelError(
                    "the JSON schema has a schema with an $id of its own inside, which is not supported"
                )
            if isinstance(pattern := value.get("pattern"), str):
                regex += len(pattern)
            if isinstance(patterns := value.get("patternProperties"), dict):
                regex += sum(map(len, patterns))
    if values > _VALUES:
        raise ModelError(f"the JSON schema has {values} values; {_VALUES} are allowed")
    if regex > _REGEX:
        raise ModelError(f"the patterns of the JSON schema have {regex} characters; {_REGEX} are allowed")
    # Every target is compiled once, in the worst case each inside the one before.
    levels = _depth(schema) + sum(_depth(_target(schema, reference)) for reference in references)
    if levels > _LEVELS:
        raise ModelError(
            f"the JSON schema and all it refers to are {levels} levels deep; {_LEVELS} are allowed"
        )


def _depth(value: Any) -> int:
    """Levels of a value that is known not to be too deep."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, children), default=0)


def _target(schema: dict[str, Any], reference: str) -> Any:
    """What `#/a/b` leads to. Raises ModelError for anything else and for what is not there."""
    if reference != "#" and not reference.startswith("#/"):
        raise ModelError(f"$ref {reference!r:.80} leads outside the JSON schema", "only #/... is followed")
    value: Any = schema
    for part in reference.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        elif isinstance(value, dict) and key in value:
            value = value[key]
        else:
            raise ModelError(f"$ref {reference!r:.80} leads to nothing in the JSON schema")
    return value


def _reason(error: str) -> str:
    """The telling line of a longer message."""
    lines = [line.strip() for line in error.splitlines() if line.strip()] or ["no reason given"]
    telling = next((line for line in lines if line.startswith("error:")), lines[0])
    return telling.removeprefix("error:").strip()[:160]


@lru_cache(maxsize=4)
def _vocabulary(tokenizer: Tokenizer, rows: int) -> "LLTokenizer":
    """The vocabulary as llguidance wants it: control tokens never in content, one end token of its own behind it."""
    from llguidance import LLTokenizer

    special = {id for id in (*tokenizer.special.values(), *tokenizer.stop_ids) if id < rows}
    return LLTokenizer(_Vocabulary(tokenizer, rows, [*sorted(special), rows]), n_vocab=rows + 1)  # type: ignore[arg-type]


class _Vocabulary:
    """What llguidance reads of a tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, rows: int, special: list[int]) -> None:
        self.eos_token_id = rows
        self.tokens = [*(tokenizer.token_bytes(id) for id in range(rows)), b"<end>"]
        self.special_token_ids = special
        self._tokenizer = tokenizer

    def __call__(self, text: str | bytes) -> list[int]:
        return self._tokenizer.encode(
            text if isinstance(text, str) else text.decode("utf-8", errors="replace")
        )

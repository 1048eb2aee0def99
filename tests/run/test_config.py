"""Overrides: paths, typed parsing, provenance, suggestions."""

import json
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi4.errors import ConfigError
from phi4.run.config import apply_overrides, flatten, to_json


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Optim:
    betas: tuple[float, float] = (0.9, 0.95)
    kind: Literal["adamw", "muon"] = "adamw"


@dataclass(frozen=True)
class Stage:
    name: str
    lr: float = 1e-3
    tokens: int = 1000
    compile: bool = False
    dtype: str | None = None
    cap: int | None = None
    optim: Optim = field(default_factory=Optim)
    extra: Optim | None = None

    def __post_init__(self) -> None:
        if self.lr < 0:
            raise ValueError("lr must not be negative")


@dataclass(frozen=True)
class Source:
    name: str
    fraction: float = 0.5


@dataclass(frozen=True)
class Data:
    sources: tuple[Source, ...] = (Source("organic"), Source("skills"))
    families: tuple[str, ...] = ("addition", "subtraction")
    quota: dict[str, int] = field(default_factory=lambda: {"math": 3, "code": 4})
    colour: Colour = Colour.RED
    docs: Path | None = None


@dataclass(frozen=True)
class Recipe:
    name: str = "pico"
    seed: int = 0
    data: Data = field(default_factory=Data)
    stages: tuple[Stage, ...] = (Stage("pretrain"), Stage("sft", lr=5e-4))
    final: Stage = field(default_factory=lambda: Stage("dpo"))


def value(path: str, override: str) -> Any:
    recipe, _ = apply_overrides(Recipe(), [override])
    return flatten(recipe)[path]


@pytest.mark.parametrize(
    ("override", "path", "expected"),
    [
        ("seed=7", "seed", 7),
        ("seed= -7 ", "seed", -7),
        ("stages.0.lr=3e-3", "stages.pretrain.lr", 3e-3),
        ("stages.pretrain.lr=3e-3", "stages.pretrain.lr", 3e-3),
        ("pretrain.lr=3e-3", "stages.pretrain.lr", 3e-3),
        ("sft.tokens=2e6", "stages.sft.tokens", 2_000_000),
        ("sft.tokens=20_000", "stages.sft.tokens", 20_000),
        ("final.compile=yes", "final.compile", True),
        ("final.compile=FALSE", "final.compile", False),
        ("final.dtype=bf16", "final.dtype", "bf16"),
        ("final.dtype=none", "final.dtype", None),
        ("final.cap=12", "final.cap", 12),
        ("final.cap=null", "final.cap", None),
        ("final.optim.betas=0.8,0.9", "final.optim.betas", (0.8, 0.9)),
        ("final.optim.betas=(0.8, 0.9)", "final.optim.betas", (0.8, 0.9)),
        ("final.optim.betas.1=0.99", "final.optim.betas", (0.9, 0.99)),
        ("sft.optim.kind=muon", "stages.sft.optim.kind", "muon"),
        ("organic.fraction=0.25", "data.sources.organic.fraction", 0.25),
        ("data.families=sets,logic", "data.families", ("sets", "logic")),
        ("data.families=sets", "data.families", ("sets",)),
        ("data.families=", "data.families", ()),
        ("data.families.1=logic", "data.families", ("addition", "logic")),
        ("data.quota.code=9", "data.quota.code", 9),
        ("data.colour=blue", "data.colour", Colour.BLUE),
        ("data.docs=a/b", "data.docs", Path("a/b")),
        ("name=a=b", "name", "a=b"),
    ],
)
def test_overrides(override: str, path: str, expected: Any) -> None:
    got = value(path, override)
    assert got == expected
    assert type(got) is type(expected)


def test_everything_else_stays_and_the_recipe_is_not_touched() -> None:
    recipe = Recipe()
    before = flatten(recipe)
    changed, _ = apply_overrides(recipe, ["pretrain.lr=1", "pretrain.lr=2", "organic.fraction=0.1"])
    after = flatten(changed)
    assert {path for path in after if after[path] != before[path]} == {
        "stages.pretrain.lr",
        "data.sources.organic.fraction",
    }
    assert after["stages.pretrain.lr"] == 2.0  # the last one counts
    assert flatten(recipe) == before


def test_provenance_names_every_leaf() -> None:
    recipe, provenance = apply_overrides(Recipe(), ["pretrain.lr=1", "final.optim.betas.0=0.5"])
    assert provenance.keys() == flatten(recipe).keys()
    assert {path for path, origin in provenance.items() if origin == "--set"} == {
        "stages.pretrain.lr",
        "final.optim.betas",
    }
    assert set(provenance.values()) == {"--set", "recipe pico"}


@pytest.mark.parametrize(
    ("override", "message", "hint"),
    [
        ("pretrain.rl=3", "unknown key pretrain.rl", "stages.pretrain.lr"),
        ("sead=3", "unknown key sead", "did you mean seed?"),
        ("lr=3", "unknown key lr", "stages.pretrain.lr or stages.sft.lr or final.lr"),
        ("stages.2.lr=3", "unknown key stages.2.lr", "stages.pretrain.lr"),
        ("midtrain.lr=3", "unknown key midtrain.lr", "did you mean"),
        ("zzz=3", "unknown key zzz", "--dry-run"),
        ("seed.x=3", "unknown key seed.x", ""),
        ("seed", "not of the form key=value", "--set"),
        ("=3", "not of the form key=value", "--set"),
        ("seed=abc", "seed=abc: expected a whole number", ""),
        ("seed=1.5", "expected a whole number", ""),
        ("seed=inf", "expected a whole number", ""),
        ("final.lr=fast", "expected a number", ""),
        ("final.lr=nan", "expected a finite number", ""),
        ("final.lr=-1", "lr must not be negative", ""),
        ("final.compile=maybe", "expected true or false", ""),
        ("final.cap=x", "expected a whole number", ""),
        ("final.optim.kind=sgd", "expected one of adamw, muon", ""),
        ("final.optim.betas=1,2,3", "expected 2 values", ""),
        ("final.extra.kind=muon", "final.extra is switched off", ""),
        ("final.optim=muon", "final.optim is a group", "final.optim.betas"),
        ("stages=3", "stages is a group", ""),
        ("data.colour=green", "expected one of red, blue", ""),
    ],
)
def test_mistakes(override: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_overrides(Recipe(), [override])
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message


def test_ambiguous_names_and_fields_before_names() -> None:
    @dataclass(frozen=True)
    class Two:
        left: tuple[Source, ...] = (Source("a", 1.0), Source("seed", 1.0))
        right: tuple[Source, ...] = (Source("a", 2.0),)
        seed: Source = field(default_factory=lambda: Source("x", 3.0))

    with pytest.raises(ConfigError, match="ambiguous") as caught:
        apply_overrides(Two(), ["a.fraction=0"])
    assert "left.a, right.a" in caught.value.hint
    changed, _ = apply_overrides(Two(), ["right.a.fraction=0", "seed.fraction=0"])
    assert [s.fraction for s in (*changed.left, *changed.right, changed.seed)] == [1.0, 1.0, 0.0, 0.0]


def word(leaf: Any) -> str:
    if isinstance(leaf, tuple):
        return ",".join(map(str, leaf))
    return str(leaf.value if isinstance(leaf, Enum) else leaf)


def test_flatten_paths_can_all_be_set_back() -> None:
    recipe = Recipe()
    leaves = flatten(recipe)
    words = [f"{path}={word(leaf)}" for path, leaf in leaves.items()]
    assert apply_overrides(recipe, words)[0] == recipe


@given(st.floats(min_value=0, allow_nan=False, allow_infinity=False), st.integers())
def test_numbers_survive_the_command_line(lr: float, seed: int) -> None:
    recipe, _ = apply_overrides(Recipe(), [f"final.lr={lr!r}", f"seed={seed}"])
    assert (recipe.final.lr, recipe.seed) == (lr, seed)


@given(st.text())
def test_no_override_escapes_as_another_exception(text: str) -> None:
    for override in (text, f"{text}=1", f"final.{text}=1", f"seed={text}", f"data.families={text}"):
        with suppress(ConfigError):
            apply_overrides(Recipe(), [override])


def test_to_json() -> None:
    plain = to_json(Recipe())
    assert json.loads(json.dumps(plain)) == plain
    assert plain["stages"][1]["optim"]["betas"] == [0.9, 0.95]
    assert plain["data"]["colour"] == "red"
    for alien in (float("nan"), object(), {1, 2}, b"x"):
        with pytest.raises(ConfigError):
            to_json({"x": alien})

"""`phi4 ask` in a real process with a fake model behind it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from tests.cli.fakes import fake_model
from phi4.cli import ask
from phi4.cli.main import main
def load(name, adapter=None, precision="", cache=""):
    if name: print("model", name, file=sys.stderr)
    return fake_model()
ask.load = load
sys.exit(main())
"""


def run(*args: str, piped: bytes | None = None) -> "subprocess.CompletedProcess[bytes]":
    stdin = {"input": piped} if piped is not None else {"stdin": subprocess.DEVNULL}
    return subprocess.run(
        [sys.executable, "-c", CODE, "ask", *args], capture_output=True, timeout=60, **stdin
    )  # type: ignore[call-overload,no-any-return]


def test_one_argument_is_the_prompt_and_only_the_answer_is_on_stdout() -> None:
    result = run("hi é🙂")
    assert result.stdout.decode() == "echo HI É🙂\n"
    assert "tok/s" in result.stderr.decode()
    assert "model" not in result.stderr.decode()


@pytest.mark.parametrize("args", [["pico", "hi"], ["-m", "pico", "hi"], ["hi", "--model", "pico"]])
def test_model_as_first_of_two_or_option(args: list[str]) -> None:
    result = run(*args)
    assert result.stdout == b"echo HI\n"
    assert b"model pico" in result.stderr


def test_piped_input_is_appended_or_is_the_prompt() -> None:
    assert run("sum up:", piped=b"one\ntwo\n").stdout == b"echo SUM UP:\n\nONE\nTWO\n"
    assert run(piped=b"one\n").stdout == b"echo ONE\n"
    assert run("a", piped=b"\xff\xfe").stdout.decode() == "echo A\n\n\ufffd\ufffd\n"


def test_json_is_one_line() -> None:
    result = run("hi", "--json", "--max-tokens", "2")
    answer = json.loads(result.stdout)
    assert answer["prompt"] == "hi"
    assert answer["finish"] == "length"
    assert answer["tokens"] == 2
    assert "echo hi".startswith(answer["answer"])
    assert answer["tok_s"] > 0
    assert result.stderr == b""


@pytest.mark.parametrize(
    ("args", "piped", "message"),
    [
        ([], None, "nothing to ask"),
        (["  "], None, "nothing to ask"),
        (["what", "is", "this"], None, "the prompt must be one argument"),
        (["-m", "a", "b", "c"], None, "the prompt must be one argument"),
        (["x", "--top-p", "0"], None, "--top-p 0.0"),
        (["x", "--temperature", "nan"], None, "--temperature nan"),
        (["x", "--max-tokens", "0"], None, "--max-tokens 0"),
        (["x"], b"a\0b", "binary"),
        (["x"], b"a" * 4_000_001, "longer than 4 MB"),
        (["word " * 2000], None, "too long for pico"),
    ],
)
def test_mistakes(args: list[str], piped: bytes | None, message: str) -> None:
    result = run(*args, piped=piped)
    assert result.returncode != 0
    assert message in result.stderr.decode().splitlines()[0]
    assert result.stdout == b""


def test_system_message_reaches_the_model() -> None:
    result = run("hi", "--system", "be kind", "--json")
    assert (
        json.loads(result.stdout)["prompt_tokens"] > json.loads(run("hi", "--json").stdout)["prompt_tokens"]
    )


def test_a_thought_is_kept_apart() -> None:
    """Into a pipe goes what stands behind the last mark; --json has both."""
    assert run("think of it").stdout == b"echo THINK OF IT\n"
    answer = json.loads(run("think of it", "--json").stdout)
    assert answer["answer"] == "echo THINK OF IT"
    assert answer["reasoning"] == "hm, of it</think> is no end"
    assert json.loads(run("hi", "--json").stdout)["reasoning"] == ""
    cut = json.loads(run("think of it", "--json", "--max-tokens", "12").stdout)
    assert (cut["answer"], cut["finish"]) == ("", "length")
    assert cut["reasoning"].startswith("h")

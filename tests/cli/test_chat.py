"""`phi4 chat` driven through a real terminal (a pty), keys and all."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from tests.cli.fakes import fake_model
from phi4.cli import chat
from phi4.cli.main import main
chat.load = lambda name, *options: fake_model(slow=float(sys.argv.pop()))
sys.exit(main())
"""


def _prepare() -> None:
    """Make the pty the terminal of the chat, which starts with Ctrl-C ignored as a script's background job does."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Terminal:
    """A chat on the other side of a pty."""

    def __init__(
        self,
        folder: Path,
        *args: str,
        slow: float = 0.0,
        verb: str = "chat",
        code: str = CODE,
        env: dict[str, str] | None = None,
        colours: bool = False,
    ) -> None:
        self.parent, child = pty.openpty()
        command = [sys.executable, "-c", code, verb, *args, str(slow)]
        env = {**os.environ, "TERM": "xterm", "NO_COLOR": "1", "INPUTRC": "/dev/null", **(env or {})}
        if colours:
            del env["NO_COLOR"]
        self.process = subprocess.Popen(
            command, stdin=child, stdout=child, stderr=child, env=env, cwd=folder, start_new_session=True,
            preexec_fn=_prepare,
        )  # fmt: skip
        os.close(child)
        self.text = ""

    def type(self, text: str) -> None:
        os.write(self.parent, text.encode())

    def until(self, pattern: str, seconds: float = 20.0) -> str:
        """Read until `pattern` appears in what has not been consumed yet; returns everything up to it."""
        end = time.monotonic() + seconds
        while not (match := re.search(pattern, self.text)):
            assert time.monotonic() < end, f"no {pattern!r} in {self.text!r}"
            if select.select([self.parent], [], [], 0.1)[0]:
                try:
                    data = os.read(self.parent, 65536)
                except OSError:
                    data = b""
                assert data, f"the chat ended; no {pattern!r} in {self.text!r}"
                self.text += data.decode(errors="replace").replace("\r\n", "\n")
        seen, self.text = self.text[: match.end()], self.text[match.end() :]
        return re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", seen)

    def ask(self, line: str) -> str:
        """Type a line at the prompt and return what is shown up to the next prompt."""
        self.type(line + "\n")
        return self.until(r"\n(\x1b\[\?2004h)?> ")

    def leave(self) -> int:
        os.close(self.parent)
        return self.process.wait(timeout=20)


@pytest.fixture
def chat(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    terminal.until("> ")
    yield terminal
    terminal.process.kill()
    terminal.process.wait()


def test_banner_says_what_the_model_can_do(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    banner = terminal.until("> ")
    for word in ("pico", "addition 98%", "code tracing 91%", "/example", "/help", "Ctrl-C"):
        assert word in banner
    terminal.type("\x04")  # Ctrl-D
    assert terminal.process.wait(timeout=20) == 0


def test_answers_stream_and_stats_follow(chat: Terminal) -> None:
    shown = chat.ask("hello é🙂")
    assert "echo HELLO É🙂" in shown
    assert re.search(r"\[\d+ tokens in [\d.]+ s, \d+ tok/s\]", shown)


def test_several_lines_by_backslash_and_by_block(chat: Terminal) -> None:
    chat.type("one\\\n")
    chat.until(r"\.\.\. ")
    assert "echo ONE\nTWO" in chat.ask("two")
    chat.type('"""first\n')
    chat.until(r"\.\.\. ")
    chat.type("\n")
    chat.until(r"\.\.\. ")
    assert "echo FIRST\n\nLAST" in chat.ask('last"""')
    assert "echo ONLY" in chat.ask('"""only"""')


def test_ctrl_c_stops_the_answer_and_keeps_the_conversation(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, slow=0.05)
    terminal.until("> ")
    terminal.type("abcdefghijklmnopqrstuvwxyz0123456789 abcdefghijklmnopqrstuvwxyz0123456789\n")
    terminal.until("ABC")
    terminal.type("\x03")
    shown = terminal.until("\n(\x1b\\[\\?2004h)?> ")
    assert "stopped]" in shown
    assert "6789\n" not in shown
    assert "saved 2 messages" in terminal.ask("/save talk.json")
    saved = json.loads((tmp_path / "talk.json").read_text())["messages"]
    assert [m["role"] for m in saved] == ["user", "assistant"]
    assert saved[1]["content"].startswith("echo ABC")
    assert not saved[1]["content"].endswith("9")
    terminal.type("\x03")  # at the prompt it only clears the line
    terminal.until("leaves[^>]*> ")
    assert "echo STILL HERE" in terminal.ask("still here")
    terminal.type("/exit\n")
    assert terminal.process.wait(timeout=20) == 0


def test_commands(chat: Terminal, tmp_path: Path) -> None:
    shown = chat.ask("/help")
    assert all(command in shown for command in ("/system", "/clear", "/save", "/example", "/exit"))
    assert "system message: be kind" in chat.ask("/system be kind")
    chat.ask("hi")
    assert "saved 3 messages" in chat.ask("/save talk.md")
    assert (
        tmp_path / "talk.md"
    ).read_text() == "**system**\n\nbe kind\n\n**user**\n\nhi\n\n**assistant**\n\necho HI\n"
    assert "exists already" in chat.ask("/save talk.md")
    assert "needs a file name" in chat.ask("/save")
    assert "cannot write" in chat.ask("/save /proc/nope/x.md")
    chat.ask("/clear")
    assert "system message: none" in chat.ask("/system none")
    assert "saved 0 messages" in chat.ask("/save empty.md")
    assert "did you mean /example?" in chat.ask("/exmaple")
    assert "too long" in chat.ask("word " * 700)
    assert "echo HI" in chat.ask("hi")
    chat.type("/exit\n")
    assert chat.process.wait(timeout=20) == 0


def test_example_is_unseen_and_judged(chat: Terminal) -> None:
    pytest.importorskip("phi4.skills.catalog")
    from phi4.skills.catalog import family

    shown = chat.ask("/example addition")
    title = family("addition").title
    assert f"{title}: " in shown
    assert "echo" in shown
    assert "wrong: the answer is" in shown
    assert "did you mean addition?" in chat.ask("/example aditon")
    assert re.search("right|wrong", chat.ask("/example"))


def test_piped_chat_prints_answers_only_and_json_last(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CODE, "chat", "--json", "--system", "s", "0"]
    result = subprocess.run(
        command, input="hi\n\nyou\\\nthere\n", capture_output=True, text=True, cwd=tmp_path
    )
    *shown, last = result.stdout.splitlines()
    assert shown == ["echo HI", "echo YOU", "THERE"]
    assert [m["content"] for m in json.loads(last)["messages"]] == [
        "s",
        "hi",
        "echo HI",
        "you\nthere",
        "echo YOU\nTHERE",
    ]
    assert result.stderr == ""


def test_a_thought_streams_dimmed_and_is_not_part_of_the_conversation(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, colours=True)
    terminal.until("> ")
    terminal.type("think of it\n")
    terminal.until(r"\x1b\[2mh\x1b\[0m")  # the first letter of the thought
    shown = terminal.until(r"\n(\x1b\[\?2004h)?> ")
    # What streams cannot know which mark is the last; what is kept is cut behind it.
    assert shown.startswith("m, of it\n\nis no end</think>\n\necho THINK OF IT\n[")
    assert "saved 2 messages" in terminal.ask("/save talk.json")
    saved = json.loads((tmp_path / "talk.json").read_text())["messages"]
    assert saved[1] == {"role": "assistant", "content": "echo THINK OF IT"}
    terminal.type("/exit\n")
    assert terminal.process.wait(timeout=20) == 0

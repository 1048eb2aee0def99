"""A published model that is not on this machine: `chat` and `ask` say what it takes, and fetch it when told to."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from phi4.weights.folder import save_model
from tests.cli.test_chat import ROOT, Terminal
from tests.evals.fakes import tokenizer
from tests.weights.local_hub import LocalHub
from tests.weights.test_gguf import PHI_4, network

PLAIN = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from phi4.cli.main import main
sys.argv.remove("0.0")
sys.exit(main())
"""
# A catalogue whose phi-4 is the local hub's repository, so that a short name can be fetched from it.
CODE = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from dataclasses import replace
from phi4.weights import catalog
from phi4.cli.main import main
catalog.CATALOG = tuple(
    replace(entry, repo="some/model") if entry.name == "phi-4" else entry for entry in catalog.CATALOG)
sys.argv.remove("0.0")
sys.exit(main())
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("published")
    save_model(folder, network(PHI_4), tokenizer())
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def environment(hub: LocalHub, home: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "PHI4_HOME": str(home)}


def run(hub: LocalHub, home: Path, *args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", CODE, *args, "0.0"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=home,
        env={**os.environ, **environment(hub, home)},
    )


def test_a_person_reads_what_it_takes_and_says_no_or_yes(files: dict[str, bytes], tmp_path: Path) -> None:
    with LocalHub(files).running() as hub:
        env = environment(hub, tmp_path)
        terminal = Terminal(tmp_path, "phi-4", code=CODE, env=env)
        shown = " ".join(terminal.until(r"\[y/N\] ").split())
        for word in (
            "phi-4 is not on this machine",
            "14.7 billion parameters, 16,384 tokens of context, MIT licence",
            "to fetch 29.3 GB",
            "bf16 29.3 GB, int8 15.7 GB, int4 9.7 GB",
            "recommended",
        ):
            assert word in shown
        terminal.type("\n")  # silence is no
        assert "fetch it: `phi4 pull phi-4`" in terminal.until("29.3 GB\n")
        assert terminal.process.wait(timeout=20) == 2
        assert hub.asked == []

        terminal = Terminal(tmp_path, "phi-4", code=CODE, env=env)
        terminal.until(r"\[y/N\] ")
        terminal.type("y\n")
        terminal.until("/help for commands")
        terminal.until("> ")
        terminal.type("/exit\n")
        assert terminal.process.wait(timeout=20) == 0
        assert hub.sent == len(files["model.safetensors"])

        again = run(hub, tmp_path, "ask", "phi-4", "hi", "--max-tokens", "3", "--json")  # nothing to agree to
        assert json.loads(again.stdout)["tokens"] <= 3
        assert hub.sent == len(files["model.safetensors"])


@pytest.mark.parametrize("verb", [["ask", "phi-4", "hi", "--json"], ["chat", "some/model"]])
def test_without_a_terminal_the_error_names_the_command(
    verb: list[str], files: dict[str, bytes], tmp_path: Path
) -> None:
    with LocalHub(files).running() as hub:
        refused = run(hub, tmp_path, *verb)
        assert refused.returncode == 2
        assert f"phi4: {verb[1]} is not on this machine\n  fetch it: `phi4 pull {verb[1]}`" in refused.stderr
        assert hub.asked == []
        done = run(hub, tmp_path, *verb, "--yes", "--max-tokens", "3")
        assert done.returncode == 0, done.stderr
        assert hub.sent == len(files["model.safetensors"])
        assert "tokens of context" in done.stderr or "to fetch" in done.stderr


def test_a_repository_by_its_name_is_described_by_the_hub(files: dict[str, bytes], tmp_path: Path) -> None:
    with LocalHub(files).running() as hub:
        terminal = Terminal(
            tmp_path, "some/model", "hi", verb="ask", code=PLAIN, env=environment(hub, tmp_path)
        )
        assert "GB to fetch" in terminal.until(r"\[y/N\] ")
        terminal.type("n\n")
        terminal.until("phi4 pull some/model")
        assert terminal.process.wait(timeout=20) == 2
        assert hub.sent == 0

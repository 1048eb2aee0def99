"""Pulling from a local hub that misbehaves. Each case has a process of its own: the settings are read once."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phi4.model.cost import parameters
from phi4.weights.catalog import CATALOG, find
from tests.weights.local_hub import LocalHub

WEIGHTS = bytes(range(256)) * 4096  # 1 MB
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors": WEIGHTS,
    "model.Q4_0.gguf": WEIGHTS[::-1],
    "model.Q8_0.gguf": WEIGHTS[::-2] * 2,
    "pytorch_model.bin": b"\x80" * 1000,
    "consolidated.safetensors": WEIGHTS,
}
CODE = """
import json, sys
from phi4.errors import ModelError
from phi4.weights import hub
try:
    counts = []
    found = hub.plan("some/model", gguf=sys.argv[1] or None)
    path = hub.pull(found, lambda n, note: counts.append(n))
    print(json.dumps({"path": str(path), "bytes": found.bytes, "counts": counts, "left": hub.missing_bytes(found)}))
except ModelError as error:
    print(json.dumps({"error": error.message, "hint": error.hint}))
"""


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with LocalHub(dict(FILES)).running() as running:
        yield running


def pull(hub: LocalHub, home: Path, gguf: str = "", **env: str) -> dict[str, Any]:
    """What one process says that pulls some/model from the local hub."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, gguf],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **env},
    )
    assert done.stdout, done.stderr[-2000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_only_what_is_needed_arrives_whole(hub: LocalHub, tmp_path: Path) -> None:
    said = pull(hub, tmp_path)
    folder = Path(said["path"])
    assert sorted(file.name for file in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert said["left"] == 0
    assert sum(said["counts"]) == said["bytes"] == len(WEIGHTS) + 4
    before = hub.sent
    assert pull(hub, tmp_path)["path"] == said["path"]
    assert hub.sent == before  # nothing is fetched twice
    offline = pull(hub, tmp_path, HF_HUB_OFFLINE="1")
    assert "error" in offline or offline["path"] == said["path"]


@pytest.mark.parametrize("mishaps", [["drop"], ["corrupt"], ["500"], ["429"], ["drop", "corrupt"]], ids=str)
def test_a_spoiled_transfer_is_mended(mishaps: list[str], hub: LocalHub, tmp_path: Path) -> None:
    hub.mishaps = list(mishaps)
    said = pull(hub, tmp_path)
    assert "error" not in said, said
    assert (Path(said["path"]) / "model.safetensors").read_bytes() == WEIGHTS
    assert min(said["counts"]) >= 0
    assert sum(said["counts"]) == said["bytes"]
    assert hub.mishaps == []


def test_a_dropped_transfer_resumes_where_it_stopped(hub: LocalHub, tmp_path: Path) -> None:
    """Within the file, that is: huggingface_hub writes pieces of 10 MB, so the file has to be larger."""
    hub.files["model.safetensors"] = WEIGHTS * 24
    hub.mishaps = ["drop"]
    said = pull(hub, tmp_path)
    assert (Path(said["path"]) / "model.safetensors").read_bytes() == WEIGHTS * 24
    ranges = [line for line in hub.asked if line.startswith("model.safetensors bytes=") and "=0-" not in line]
    assert ranges, hub.asked


def test_what_stays_damaged_is_refused_and_not_kept(hub: LocalHub, tmp_path: Path) -> None:
    hub.mishaps = ["corrupt"] * 3
    assert "checksum differs" in pull(hub, tmp_path)["error"]
    said = pull(hub, tmp_path)
    assert (Path(said["path"]) / "model.safetensors").read_bytes() == WEIGHTS


def test_one_gguf_file_by_pattern(hub: LocalHub, tmp_path: Path) -> None:
    said = pull(hub, tmp_path, "*Q4_0*")
    assert Path(said["path"]).name == "model.Q4_0.gguf"
    assert "2 GGUF files" in pull(hub, tmp_path, "*")["error"]


def test_pickled_weights_alone_are_refused(hub: LocalHub, tmp_path: Path) -> None:
    for name in [name for name in hub.files if name.endswith((".safetensors", ".gguf"))]:
        del hub.files[name]
    said = pull(hub, tmp_path)
    assert "no safetensors" in said["error"]
    assert "pickled" in said["hint"]


@pytest.mark.parametrize(
    ("status", "word"), [(401, "does not let you"), (403, "terms"), (404, ""), (503, "failed")]
)
def test_refusals_are_one_clear_line(status: int, word: str, hub: LocalHub, tmp_path: Path) -> None:
    hub.refuse = status
    said = pull(hub, tmp_path)
    assert word in said["error"], said
    assert "\n" not in said["error"]


def test_a_hub_that_is_not_there(hub: LocalHub, tmp_path: Path) -> None:
    hub.url = "http://127.0.0.1:9"
    said = pull(hub, tmp_path)
    assert "failed" in said["error"], said
    assert "resumes" in said["hint"]


def test_catalogue_has_the_published_sizes() -> None:
    sizes = {entry.name: entry.parameters for entry in CATALOG}
    assert sizes["phi-4"] == sizes["phi-4-reasoning"] == 14_659_507_200
    assert sizes["phi-4-mini"] == 3_836_021_760
    assert sizes["orca-2-7b"] == 6_738_440_192
    assert sizes["orca-2-13b"] == 13_015_895_040
    assert sizes["mistral-small-22b"] == 22_247_282_688
    assert sizes["mistral-small-24b"] == 23_572_403_200
    assert 134_000_000 < sizes["smollm2"] < 135_000_000
    found = find("Microsoft/PHI-4")
    assert found is not None
    assert found.name == "phi-4"
    assert parameters(found.config) == found.parameters

"""Atomic files under kills, full disks and leftovers."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from phi4.errors import RunError
from phi4.run.files import atomic_folder, atomic_write, read_json, sweep, write_json, writing


def run_python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=60)


# Dies by SIGKILL at the first os.replace / os.rename, that is, with everything written and nothing renamed.
KILLED_BEFORE_RENAME = """
import os, signal, sys
from pathlib import Path
from phi4.run.files import atomic_folder, atomic_write
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
os.replace = os.rename = die
"""


def test_kill_between_write_and_rename_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    atomic_write(target, "old")
    result = run_python(KILLED_BEFORE_RENAME + "atomic_write(Path(sys.argv[1]), 'new')", str(target))
    assert result.returncode == -signal.SIGKILL
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2  # the temporary is there ...
    assert len(sweep(tmp_path)) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]  # ... until the next owner sweeps


def test_kill_inside_an_atomic_folder_leaves_no_folder(tmp_path: Path) -> None:
    code = KILLED_BEFORE_RENAME + (
        "with atomic_folder(Path(sys.argv[1])) as f:\n    (f / 'x').write_text('half')\n"
    )
    result = run_python(code, str(tmp_path / "model"))
    assert result.returncode == -signal.SIGKILL
    assert not (tmp_path / "model").exists()
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_kill_between_the_two_renames_of_a_replacement_is_healed(tmp_path: Path) -> None:
    model = tmp_path / "model"
    with atomic_folder(model) as folder:
        (folder / "x").write_text("old")
    code = """
import os, signal, sys
from pathlib import Path
from phi4.run.files import atomic_folder
rename = os.rename
def once(a, b):
    rename(a, b)
    os.kill(os.getpid(), signal.SIGKILL)
os.rename = once
with atomic_folder(Path(sys.argv[1])) as f:
    (f / 'x').write_text('new')
"""
    assert run_python(code, str(model)).returncode == -signal.SIGKILL
    assert not model.exists()
    sweep(tmp_path)
    assert (model / "x").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_atomic_folder_replaces_and_forgets_on_error(tmp_path: Path) -> None:
    model = tmp_path / "model"
    for text in ("one", "two"):
        with atomic_folder(model) as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / "x").write_text(text)
    assert (model / "sub" / "x").read_text() == "two"
    with pytest.raises(IsADirectoryError), atomic_folder(model) as folder:
        folder.write_text("broken")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert [p.name for p in model.iterdir()] == ["sub"]


def test_full_disk_is_one_error_and_keeps_the_old_file(tmp_path: Path) -> None:
    """RLIMIT_FSIZE makes the real write fail half-way, as a full disk does."""
    target = tmp_path / "deep" / "big.bin"
    atomic_write(target, b"old")
    code = """
import resource, sys
from pathlib import Path
from phi4.errors import RunError
from phi4.run.files import atomic_write
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    atomic_write(Path(sys.argv[1]), b'x' * 100_000)
except RunError as error:
    print(error.message); print(error.hint)
"""
    result = run_python(code, str(target))
    assert "no space to write" in result.stdout, result.stderr
    assert str(target) in result.stdout
    assert "MB free" in result.stdout
    assert target.read_bytes() == b"old"
    assert [p.name for p in target.parent.iterdir()] == ["big.bin"]


@pytest.mark.skipif(
    os.geteuid() != 0 or not hasattr(resource, "RLIMIT_FSIZE"), reason="needs root to mount a tiny disk"
)
def test_really_full_disk(tmp_path: Path) -> None:
    mount = tmp_path / "tiny"
    mount.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)], capture_output=True
    ).returncode:
        pytest.skip("no tmpfs here")
    try:
        atomic_write(mount / "a", b"old")
        with pytest.raises(RunError, match="no space"):
            atomic_write(mount / "a", os.urandom(200_000))
        with pytest.raises(RunError, match="no space"), atomic_folder(mount / "m") as folder:
            (folder / "w").write_bytes(os.urandom(200_000))
        assert [p.name for p in mount.iterdir()] == ["a"]
        assert (mount / "a").read_bytes() == b"old"
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_writing_knows_the_full_disk_of_other_libraries(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no space"), writing(tmp_path / "x"):
        raise ValueError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(ValueError, match="something else"), writing(tmp_path / "x"):
        raise ValueError("something else")


def test_unreadable_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(RunError, match="does not exist"):
        read_json(path)
    for damage in (b'{"a": ', b"\xff\xfe", b""):
        path.write_bytes(damage)
        with pytest.raises(RunError, match=r"a\.json cannot be read as JSON"):
            read_json(path)
    write_json(path, {"b": 1, "a": ["é", None]})
    assert json.loads(path.read_text(encoding="utf-8")) == read_json(path) == {"b": 1, "a": ["é", None]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"x": float("nan")})
    assert read_json(path)["b"] == 1


def test_new_files_have_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    atomic_write(tmp_path / "ours", "x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode

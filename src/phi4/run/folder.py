"""A run on disk: NAME-FINGERPRINT/ with run.json and one folder per stage.

A stage is finished when its `done.json` carries the key it was asked for; that file is written last and
atomically. A folder without it is half-written and belongs to the key in `started.json`, so a stage can
tell "continue" from "this was made by another configuration". One process at a time holds the run's lock.
"""

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from phi4.errors import RunError
from phi4.run.config import to_json
from phi4.run.files import read_json, sweep, write_json, writing

StageState = Literal["missing", "partial", "stale", "done"]


def fingerprint(value: Any) -> str:
    """Stable 16-digit hash of dataclasses, tuples, dicts and plain values: equal on every machine.

    Class names take part, so that two configurations with equal fields but different kinds differ.
    """
    text = json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class RunFolder:
    """The folder of one run. Making the object touches nothing on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def stage(self, name: str) -> Path:
        """The folder of a stage, made if it is not there."""
        path = self.root / name
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    def begin(self, stage: str, key: str) -> Path:
        """Open a stage for work under `key` and return its folder.

        What an earlier process with the same key left half done is kept (the stage resumes from it);
        what belongs to another key is deleted first.
        """
        if self.state(stage, key) == "stale":
            self.reset(stage)
        path = self.stage(stage)
        if not (path / "started.json").exists():
            write_json(path / "started.json", {"key": key})
        return path

    def state(self, stage: str, key: str) -> StageState:
        """Where a stage stands: not begun, half-written for this key, made for another key, or finished."""
        path = self.root / stage
        if not path.is_dir() or not any(path.iterdir()):
            return "missing"
        for marker, state in (("done.json", "done"), ("started.json", "partial")):
            if (path / marker).exists():
                found = read_json(path / marker)
                same = isinstance(found, dict) and found.get("key") == key
                return state if same else "stale"  # type: ignore[return-value]
        return "stale"  # files of unknown origin: nothing says which configuration made them

    def done(self, stage: str, key: str) -> bool:
        """Is this stage finished under this very key?"""
        return self.state(stage, key) == "done"

    def mark_done(self, stage: str, key: str, summary: dict[str, Any], seconds: float) -> None:
        """Declare a stage finished. Call it last: this file is what makes everything before it count."""
        marker = {"stage": stage, "key": key, "seconds": round(seconds, 3), "summary": to_json(summary)}
        write_json(self.stage(stage) / "done.json", marker)

    def summary(self, stage: str) -> dict[str, Any]:
        """The summary given to `mark_done`, whatever the key; RunError when the stage is not finished."""
        return dict(self._marker(stage)["summary"])

    def seconds(self, stage: str) -> float:
        """How long the stage took, as given to `mark_done`."""
        return float(self._marker(stage)["seconds"])

    def reset(self, stage: str) -> None:
        """Delete this stage's own folder and nothing else."""
        path = self.root / stage
        if path.resolve().parent != self.root.resolve():
            raise RunError(f"{stage} is not a stage of {self.root}")
        if path.exists():
            (path / "done.json").unlink(
                missing_ok=True
            )  # first, so that a kill half-way leaves no false claim
            shutil.rmtree(path)

    def write_run(self, value: dict[str, Any]) -> None:
        """Write run.json."""
        with writing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
        write_json(self.root / "run.json", to_json(value))

    def read_run(self) -> dict[str, Any]:
        """run.json as written; RunError when this is not a run folder."""
        if not (self.root / "run.json").is_file():
            raise RunError(
                f"{self.root} is not a run folder (it has no run.json)", "runs are made by `phi4 make`"
            )
        value = read_json(self.root / "run.json")
        if not isinstance(value, dict):
            raise RunError(f"{self.root / 'run.json'} is damaged", "delete the run folder and make it again")
        return value

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process, and clean up what a killed one left. RunError if another has it.

        The system drops the lock when its holder dies, however it dies, so there are no stale locks;
        the process id in the file only serves the message.
        """
        with writing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
                raise RunError(
                    f"{self.root} is in use by another process (pid {holder})",
                    "wait for it to finish, stop it, or choose another folder with --out DIR",
                ) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            sweep(self.root)
            yield
            os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def _marker(self, stage: str) -> dict[str, Any]:
        path = self.root / stage / "done.json"
        if not path.exists():
            raise RunError(
                f"stage {stage} of {self.root} is not finished", "run the same `phi4 make` again to resume"
            )
        value = read_json(path)
        if not isinstance(value, dict) or not {"key", "summary", "seconds"} <= value.keys():
            raise RunError(f"{path} is damaged", f"delete {path.parent} and run `phi4 make` again")
        return value


def find_runs(parent: Path, name: str | None = None) -> list[RunFolder]:
    """Run folders in `parent`, most recently made first; only those of recipe `name` when it is given."""
    if not parent.is_dir():
        return []
    found = []
    for path in parent.iterdir():
        try:
            run = RunFolder(path).read_run()
        except RunError:
            continue
        if name is None or run.get("name") == name:
            found.append((str(run.get("created", "")), path.name, path))
    return [RunFolder(path) for _, _, path in sorted(found, reverse=True)]


def _canonical(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _canonical(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {type(value).__name__: fields}
    if isinstance(value, dict):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_canonical(item) for item in value]
    return to_json(value)

"""Fetching a model from the Hugging Face hub: only what is needed, resumed where it stopped, and checked.

huggingface_hub does the transfer and keeps the files in its cache, which other tools share; HF_ENDPOINT, HF_TOKEN,
HF_HUB_OFFLINE and HF_HOME mean what they mean there. What it downloaded is compared with the hub's checksum here,
because a file that arrives whole but changed would otherwise be believed.
"""

import fnmatch
import hashlib
import io
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi4.errors import ModelError
from phi4.run.files import atomic_write

# Never: pickled weights, weights of other frameworks, a second copy in another layout.
_WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "LICENSE*", "README.md")
_SKIPPED = ("consolidated*", "*/*", "*.index.fp*", "adapter_*")
_SPARE_BYTES = 500_000_000  # left free on the disk
_TRIES = 3


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository; sha256 is known for large files only."""

    name: str
    size: int
    sha256: str | None


@dataclass(frozen=True)
class Plan:
    """What a pull would fetch."""

    repo: str
    commit: str
    files: tuple[RemoteFile, ...]
    revision: str = "main"  # the branch, tag or commit that was asked for

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(file.size for file in self.files)


def plan(repo: str, revision: str | None = None, gguf: str | None = None) -> Plan:
    """Ask the hub what a repository holds and choose. `gguf`: a GGUF file's name or pattern instead of the weights.

    Raises ModelError, saying what to do, when there is no such repository, no access or no network.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(repo, revision=revision, files_metadata=True)
    except Exception as error:
        raise _explained(repo, error) from error
    everything = [
        RemoteFile(s.rfilename, s.size or 0, s.lfs.sha256 if s.lfs else None) for s in info.siblings or []
    ]
    if gguf is not None:
        files = [
            file for file in everything if fnmatch.fnmatch(file.name, gguf) and file.name.endswith(".gguf")
        ]
        if len(files) != 1:
            names = ", ".join(file.name for file in everything if file.name.endswith(".gguf")) or "none"
            raise ModelError(f"{len(files)} GGUF files of {repo} match {gguf!r}", f"it has: {names}")
    else:
        files = [file for file in everything if _wanted(file.name)]
        if not any(file.name.endswith(".safetensors") for file in files):
            has = [file.name for file in everything if file.name.endswith(".gguf")]
            hint = f"choose one with --gguf: {', '.join(has)}" if has else "pickled weights are never loaded"
            raise ModelError(f"{repo} has no safetensors weights", hint)
    return Plan(repo, str(info.sha), tuple(sorted(files, key=lambda file: file.size)), revision or "main")


def _wanted(name: str) -> bool:
    return any(fnmatch.fnmatch(name, p) for p in _WANTED) and not any(
        fnmatch.fnmatch(name, p) for p in _SKIPPED
    )


def pull(plan: Plan, advance: Callable[[float, str], None] = lambda n, note: None) -> Path:
    """Fetch a plan's files into the hub's cache; returns their folder, or the GGUF file itself.

    Small files come first, so that a wrong choice shows early. `advance` is told of bytes as they arrive; those of a
    file that has to be fetched again count once, so the count never goes back. Stopped at any moment, the next call
    resumes within the file. Raises ModelError.
    """
    _check_space(plan)
    path = Path()
    for file in plan.files:
        counted = 0.0

        def report(total: float, file: RemoteFile = file) -> None:
            nonlocal counted
            if total > counted:
                advance(min(total, file.size) - counted, file.name)
                counted = min(total, file.size)

        path = _fetch(plan, file, report)
        report(file.size)
    if path.suffix == ".gguf":
        return path
    _name_revision(plan)
    return path.parent


def _name_revision(plan: Plan) -> None:
    """Note in the cache which commit the revision is, as other tools do: by that note the model is found again.

    It comes last, so a model that is only half here is not taken for a whole one.
    """
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    note = (
        Path(HF_HUB_CACHE) / repo_folder_name(repo_id=plan.repo, repo_type="model") / "refs" / plan.revision
    )
    if plan.revision != plan.commit:
        note.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(note, plan.commit)


def missing_bytes(plan: Plan) -> int:
    """Bytes that are not in the cache yet."""
    from huggingface_hub import try_to_load_from_cache

    return sum(
        file.size
        for file in plan.files
        if not isinstance(try_to_load_from_cache(plan.repo, file.name, revision=plan.commit), str)
    )


def _check_space(plan: Plan) -> None:
    from huggingface_hub.constants import HF_HUB_CACHE

    needed = missing_bytes(plan)
    folder = Path(HF_HUB_CACHE)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed and free < needed + _SPARE_BYTES:
        raise ModelError(
            f"{plan.repo} needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free in {folder}",
            "free some space, or set HF_HOME to another disk",
        )


def _fetch(plan: Plan, file: RemoteFile, report: Callable[[float], None]) -> Path:
    from huggingface_hub import hf_hub_download

    for left in reversed(range(_TRIES)):
        try:
            path = Path(
                hf_hub_download(plan.repo, file.name, revision=plan.commit, tqdm_class=_counting(report))
            )
        except Exception as error:
            if left and _worth_another_try(error):
                continue
            raise _explained(plan.repo, error) from error
        wrong = _difference(path, file)
        if not wrong:
            return path
        os.unlink(path.resolve())  # the blob: the next try must not believe it
        path.unlink(missing_ok=True)
        if not left:
            raise ModelError(f"{file.name} of {plan.repo} arrived damaged: {wrong}", "try again later")
    raise AssertionError("every last try returns or raises")


def _counting(report: Callable[[float], None]) -> Any:
    """A progress bar for huggingface_hub that draws nothing and reports the bytes so far."""
    from huggingface_hub.utils.tqdm import tqdm

    class Counting(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            hidden = {**kwargs, "disable": False, "file": _Nowhere()}
            super().__init__(*args, **hidden)  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> Any:
            shown = super().update(n)
            report(self.n)
            return shown

    return Counting


class _Nowhere(io.StringIO):
    def write(self, text: str) -> int:
        return len(text)


def _difference(path: Path, file: RemoteFile) -> str:
    """What is wrong with a downloaded file; empty when nothing is."""
    size = path.stat().st_size
    if file.size and size != file.size:
        return f"{size:,} bytes instead of {file.size:,}"
    if file.sha256 is None:
        return ""
    with open(path, "rb") as data:
        digest = hashlib.file_digest(data, "sha256").hexdigest()
    return "" if digest == file.sha256 else "its checksum differs"


def _worth_another_try(error: Exception) -> bool:
    """Broken connections and busy servers are; refusals are not."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if isinstance(error, HfHubHTTPError) and error.response is not None:
        return error.response.status_code in (408, 429, 500, 502, 503, 504)
    return not isinstance(error, LocalEntryNotFoundError | ValueError)


def _explained(repo: str, error: Exception) -> ModelError:
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{repo}"
    if isinstance(error, errors.GatedRepoError):
        return ModelError(
            f"{repo} is open only to those who accepted its terms",
            f"accept them at {page}, then set HF_TOKEN",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelError(f"{repo} has no such revision")
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelError(f"there is no model {repo} on {constants.ENDPOINT}", "a private one needs HF_TOKEN")
    if isinstance(error, errors.HFValidationError):
        return ModelError(f"{repo!r} is not the name of a repository", "it looks like owner/name")
    response = getattr(error, "response", None)
    if response is not None and response.status_code == 401:
        return ModelError(
            f"{constants.ENDPOINT} does not let you read {repo}", "set HF_TOKEN to a token that may"
        )
    if constants.HF_HUB_OFFLINE:
        return ModelError(f"{repo} is not all on this machine, and HF_HUB_OFFLINE forbids fetching it")
    what = " ".join(str(error).split())[:200] or type(error).__name__
    return ModelError(f"fetching {repo} failed: {what}", "what arrived is kept; the same command resumes")

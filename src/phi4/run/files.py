"""Files that are either whole or not there.

Everything a run keeps goes through here: bytes are written to a temporary sibling, forced to the disk
and renamed over the target, so a reader never sees half a file and a kill at any moment costs at most
the work since the last rename. A full disk becomes one clear error and leaves the target as it was.
"""

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from phi4.errors import RunError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TEMPORARY = ".tmp"
_REPLACED = ".old"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the ways a write can fail into a RunError that names `path` and what to do.

    Wrap it around any library that writes files itself (parquet, safetensors): those report a full
    disk with exceptions of their own, known by their message.
    """
    try:
        yield
    except RunError:
        raise
    except Exception as error:
        if is_out_of_space(error):
            raise RunError(*out_of_space(path)) from error
        if isinstance(error, PermissionError):
            raise RunError(f"not allowed to write {path}", "choose another folder with --out DIR") from error
        if isinstance(error, OSError) and error.errno == errno.EROFS:
            raise RunError(
                f"{path} is on a read-only disk", "choose another folder with --out DIR"
            ) from error
        raise


def is_out_of_space(error: BaseException) -> bool:
    """Does this exception, from whatever library, say that the disk, quota or file size is exhausted?"""
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return True
    return "No space left on device" in str(error)


def out_of_space(path: Path) -> tuple[str, str]:
    """Message and hint for a full disk, with the space that is left where `path` should have gone."""
    free = shutil.disk_usage(_existing_parent(path)).free
    return (
        f"no space to write {path} ({free / 1e6:,.0f} MB free on that disk)",
        "free some space and run the same command again: nothing finished is lost",
    )


def atomic_write(path: Path, data: bytes | str) -> None:
    """Replace the file `path` by `data` in one step; text is UTF-8, missing parents are made.

    The old content survives any failure.
    """
    with atomic_file(path) as temporary, open(temporary, "xb") as file:
        file.write(data.encode("utf-8") if isinstance(data, str) else data)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Write a temporary file in a library's own way; it becomes `path` when the block ends without an error.

    Missing parents are made. The old content survives any failure.
    """
    temporary = _temporary(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())  # a full disk may show only here
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    _sync(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Fill a temporary folder; it becomes `path` in one rename when the block ends without an error.

    An existing `path` is replaced. Renames cannot swap two folders portably, so for an instant the old
    one lives beside it under a hidden name; `sweep` puts it back if the process died at that instant.
    """
    temporary = _temporary(path)
    with writing(path):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for file in sorted(temporary.rglob("*")):
                _sync(file)
            _sync(temporary)
            replaced = path.with_name(f".{path.name}{_REPLACED}")
            if path.exists():
                shutil.rmtree(replaced, ignore_errors=True)
                os.rename(path, replaced)
            os.rename(temporary, path)
            shutil.rmtree(replaced, ignore_errors=True)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    _sync(path.parent)


def sweep(folder: Path) -> list[Path]:
    """Clean up after a killed process: delete temporaries, put back what was about to be replaced.

    Call it only while no other process writes into `folder` (that is, under the run's lock).
    Returns the leftovers it dealt with.
    """
    leftovers = []
    for path in sorted(folder.rglob(".*")):
        if not path.exists():  # went away with a parent that was itself a leftover
            continue
        if path.name.endswith(_TEMPORARY):
            _delete(path)
        elif path.name.endswith(_REPLACED):
            target = path.with_name(path.name[1 : -len(_REPLACED)])
            if target.exists():
                _delete(path)
            else:
                os.rename(path, target)
        else:
            continue
        leftovers.append(path)
    return leftovers


def read_json(path: Path) -> Any:
    """The JSON value in `path`; RunError when it is missing, unreadable or not JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise RunError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} cannot be read as JSON ({error})", "delete it and run the same command again"
        ) from None


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically, keys in the order given. NaN is refused: it is not JSON."""
    atomic_write(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{_TEMPORARY}")


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if parent.exists())


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Force a file or folder entry to the disk; file systems that cannot sync folders are let off."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

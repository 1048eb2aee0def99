"""`phi4 pull MODEL`: fetch a model from the Hugging Face hub. Stopped at any time, it resumes."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from phi4.errors import UsageError

if TYPE_CHECKING:
    from phi4.weights.hub import Plan

HELP = "Fetch a model by short name or repository; only safetensors (or one GGUF file), checked, resumed."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `phi4 pull`."""
    parser.add_argument("model", help="phi-4, phi-4-mini, smollm2, ... (`phi4 models`), or owner/name")
    parser.add_argument("--revision", help="branch, tag or commit (default: main)")
    parser.add_argument(
        "--gguf", metavar="FILE", help="a GGUF file of the repository, or a pattern such as '*Q4_K_M*'"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(args: argparse.Namespace) -> int:
    """Say what it costs, ask, fetch."""
    from phi4.cli.catalog import costs
    from phi4.weights.catalog import find
    from phi4.weights.hub import missing_bytes, plan

    entry = find(args.model)
    if entry is None and "/" not in args.model:
        raise UsageError(
            f"no model called {args.model}", "`phi4 models` lists the short names; others are owner/name"
        )
    wanted = plan(entry.repo if entry else args.model, args.revision, args.gguf)
    if entry:
        print(costs(entry))
    print(_summary(wanted))
    if missing_bytes(wanted) and not args.yes:
        if not sys.stdin.isatty():
            raise UsageError(
                "nobody is here to agree to the download", f"`phi4 pull {args.model} --yes` fetches it"
            )
        if not _agreed("fetch it? [Y/n] ", default=True):
            raise UsageError("nothing was fetched")
    path = _fetch(wanted)
    print(f"{path}\ntalk to it: phi4 chat {path if args.gguf or args.revision else args.model}")
    if args.json:
        print(json.dumps({"path": str(path), "bytes": wanted.bytes, "commit": wanted.commit}))
    return 0


def offer(name: str | None, *, yes: bool) -> None:
    """Before a conversation: fetch the published model that is meant, if it is not on this machine.

    A person at a terminal sees what it takes and decides; `yes` decides for them. Everything is said on standard
    error, so that answers stay alone on standard output. Raises UsageError, naming the command, when nobody agrees.
    """
    from phi4.cli.catalog import costs
    from phi4.cli.models import not_here, to_fetch
    from phi4.weights.catalog import find
    from phi4.weights.hub import plan

    missing = to_fetch(name)
    if missing is None:
        return
    if not yes and not sys.stdin.isatty():
        raise not_here(missing)
    print(f"{missing} is not on this machine.", file=sys.stderr)
    entry = find(missing)
    if entry is not None:  # known without the network
        print(costs(entry), file=sys.stderr)
    else:
        print(_summary(plan(missing)), file=sys.stderr)
    if not yes and not _agreed("fetch it? [y/N] ", default=False):
        raise not_here(missing)
    _fetch(plan(entry.repo if entry else missing))


def _summary(wanted: "Plan") -> str:
    from phi4.weights.hub import missing_bytes

    return (
        f"{wanted.repo}: {len(wanted.files)} files, {wanted.bytes / 1e9:.2f} GB, "
        f"{missing_bytes(wanted) / 1e9:.2f} GB to fetch"
    )


def _fetch(wanted: "Plan") -> Path:
    from phi4.run.progress import Progress
    from phi4.weights.hub import missing_bytes, pull

    done = wanted.bytes - missing_bytes(wanted)
    with Progress("pull", wanted.bytes, "B", done=done) as progress:
        return pull(wanted, progress.advance)


def _agreed(question: str, *, default: bool) -> bool:
    print(question, end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline().strip().lower()
    return answer in ("y", "yes") or (default and not answer)

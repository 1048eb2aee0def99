"""`phi4 pull MODEL`: fetch a model from the Hugging Face hub. Stopped at any time, it resumes."""

import argparse
import json
import sys

from phi4.errors import UsageError

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
    from phi4.cli.catalog import PRECISIONS, fitting, memory_bytes
    from phi4.run.progress import Progress
    from phi4.weights.catalog import find
    from phi4.weights.hub import missing_bytes, plan, pull

    entry = find(args.model)
    if entry is None and "/" not in args.model:
        raise UsageError(
            f"no model called {args.model}", "`phi4 models` lists the short names; others are owner/name"
        )
    wanted = plan(entry.repo if entry else args.model, args.revision, args.gguf)
    left = missing_bytes(wanted)
    print(
        f"{wanted.repo}: {len(wanted.files)} files, {wanted.bytes / 1e9:.2f} GB, {left / 1e9:.2f} GB to fetch"
    )
    if entry:
        fits = fitting(entry.parameters, memory_bytes())
        sizes = ", ".join(
            f"{name} {entry.parameters * size / 1e9:.1f} GB" for name, size in PRECISIONS.items()
        )
        print(f"{entry.licence}{': ' + entry.note if entry.note else ''}")
        print(f"in memory: {sizes}; " + (f"fits here as {fits}" if fits else "too large for this machine"))
    if left and not args.yes:
        _confirm(args.model)
    with Progress("pull", wanted.bytes, "B", done=wanted.bytes - left) as progress:
        path = pull(wanted, progress.advance)
    print(f"{path}\ntalk to it: phi4 chat {path if args.gguf else args.model}")
    if args.json:
        print(json.dumps({"path": str(path), "bytes": wanted.bytes, "commit": wanted.commit}))
    return 0


def _confirm(model: str) -> None:
    """Raises UsageError unless a person at a terminal agrees."""
    if not sys.stdin.isatty():
        raise UsageError("nobody is here to agree to the download", f"`phi4 pull {model} --yes` fetches it")
    if input("fetch it? [Y/n] ").strip().lower() not in ("", "y", "yes"):
        raise UsageError("nothing was fetched")

"""`phi4 quantize MODEL --to int8|int4`: a folder a half or a quarter the size, compared with the model it came from."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from phi4 import __version__
from phi4.errors import UsageError

if TYPE_CHECKING:
    from phi4.cli.models import Card
    from phi4.weights.quantize import Method

HELP = "Store a model's matrices as int8 or int4, read the folder back, and say what that cost."
GROUP = 32  # of int4: the most accurate one, for an eighth more bytes than 128
METHODS = ("gptq", "rtn")  # as in phi4.weights.quantize, which would slow --help down


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `phi4 quantize`."""
    parser.add_argument("model", help="a short name, model folder, run folder or .gguf file")
    parser.add_argument("--to", required=True, choices=("int8", "int4"), help="the precision of the matrices")
    parser.add_argument(
        "--group",
        type=int,
        choices=(32, 64, 128),
        help=f"inputs that share a scale (default: {GROUP} for int4, a whole row for int8)",
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        help="gptq: each rounding error is made up for by the weights still to come, calibrated on text (default for "
        "int4); rtn: round to nearest, in a fraction of the time (default for int8)",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="text like that the model will read (default: its own kind of problems, or the textbook and Python's "
        "documentation and code); a part is held out for the comparison",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="new folder (default: NAME-int8, NAME-int4)")


def run(args: argparse.Namespace) -> int:
    """Quantise; nothing that exists is overwritten, and nothing half-done looks like a model."""
    from phi4.cli.models import read_card, resolve
    from phi4.model.config import Quantization
    from phi4.recipes.calibration import probe
    from phi4.run.files import atomic_folder
    from phi4.weights.quantize import open_original, quantize_model

    path = resolve(args.model)
    card = read_card(path)
    out = args.out or Path(f"{card.name}-{args.to}")
    if out.exists():
        raise UsageError(f"{out} exists already and was left alone", "choose another --out")
    quantization = Quantization(int(args.to[3:]), args.group or (GROUP if args.to == "int4" else 0))
    method: Method = args.method or ("gptq" if args.to == "int4" else "rtn")
    original = open_original(path)
    for notice in original.tokenizer.notices:
        print(f"phi4: {notice}", file=sys.stderr)
    text = probe(original.tokenizer, original.config.original_context, card.skills, args.calibration)
    print(
        f"{card.name} to {quantization.name} by {method}; compared on {text.about}",
        file=sys.stderr,
        flush=True,
    )
    began = time.monotonic()
    with atomic_folder(out) as folder:
        written = quantize_model(
            folder,
            original,
            quantization,
            method,
            text.calibration,
            text.held_out,
        )
        _write_card(folder, card, args.to, quantization.name, method)
    agreement, perplexities = written.agreement, written.agreement.perplexities
    print(
        f"{out}: {quantization.name}, {method}; read back\n"
        f"size        {original.bytes / 1e6:,.1f} MB -> {written.bytes / 1e6:,.1f} MB\n"
        f"perplexity  {perplexities[0]:.4f} -> {perplexities[1]:.4f}, on {agreement.tokens:,} held-out tokens\n"
        f"KL          {agreement.divergence:.2g} nats a token\n"
        f"same token  {agreement.same:.2%} of the likeliest ones"
    )
    print(f"next: phi4 ask {out} ...; phi4 eval {out}", file=sys.stderr)
    if args.json:
        print(
            json.dumps(
                {
                    "path": str(out),
                    "quantization": quantization.name,
                    "method": method,
                    "bytes_before": original.bytes,
                    "bytes": written.bytes,
                    "kl": agreement.divergence,
                    "perplexity_before": perplexities[0],
                    "perplexity": perplexities[1],
                    "same_token": agreement.same,
                    "tokens": agreement.tokens,
                    "seconds": round(time.monotonic() - began, 3),
                }
            )
        )
    return 0


def _write_card(folder: Path, card: "Card", to: str, how: str, method: str) -> None:
    """Name and skills of the original; its scores are not this model's."""
    named = {"name": f"{card.name}-{to}", "recipe": card.recipe, "skills": list(card.skills), "scores": {}}
    (folder / "phi4.json").write_text(json.dumps(named, indent=2) + "\n", encoding="utf-8")
    text = (
        f"# {named['name']}\n\n{card.name}, its matrices stored as {how} ({method}, by phi4 {__version__}).\n"
    )
    (folder / "README.md").write_text(text, encoding="utf-8")

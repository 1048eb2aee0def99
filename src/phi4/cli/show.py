"""`phi4 show MODEL`: the shape of a network, its parameters, its memory and what a token costs."""

import argparse
import json
from pathlib import Path

HELP = "Print a model's shape, parameters and cost: a short name, a made model, a folder or a .gguf file."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `phi4 show`."""
    parser.add_argument(
        "model", nargs="?", help="a short name (`phi4 models`), a model folder or a .gguf file"
    )


def run(args: argparse.Namespace) -> int:
    """Print the figures; presets need no weights."""
    from dataclasses import fields

    from rich.console import Console
    from rich.table import Table

    from phi4.cli.models import read_shape, resolve
    from phi4.model import cost
    from phi4.weights.catalog import find

    entry = find(args.model) if args.model else None
    config = entry.config if entry else read_shape(resolve(args.model))
    context = config.max_position_embeddings
    figures = {
        "parameters": cost.parameters(config),
        "bf16_bytes": 2 * cost.parameters(config),
        "kv_bytes_per_token": cost.kv_bytes_per_token(config),
        "context": context,
        "forward_flops_per_token": cost.forward_flops_per_token(config, min(context, 4096)),
    }
    table = Table(title=args.model or str(Path(resolve(None))), title_justify="left", show_header=False)
    for name in (f.name for f in fields(config) if f.name != "long_rope"):
        value = getattr(config, name)
        plain = isinstance(value, bool | str) or value < 1
        table.add_row(name, str(value) if plain else f"{value:,}")
    table.add_row("rope", "longrope" if config.long_rope else "plain")
    if entry:
        table.add_section()
        table.add_row("repository", entry.repo)
        table.add_row("licence", f"{entry.licence}{': ' + entry.note if entry.note else ''}")
    table.add_section()
    table.add_row("parameters", f"{figures['parameters']:,}")
    table.add_row(
        "weights in bf16", f"{figures['bf16_bytes']:,} bytes ({figures['bf16_bytes'] / 2**30:.2f} GiB)"
    )
    table.add_row("KV cache per token, 16 bit", f"{figures['kv_bytes_per_token']:,} bytes")
    table.add_row(
        f"KV cache at {context:,} tokens", f"{figures['kv_bytes_per_token'] * context / 2**30:.3f} GiB"
    )
    table.add_row(
        f"FLOPs per token at {min(context, 4096):,}", f"{figures['forward_flops_per_token']:.4g} forward"
    )
    Console().print(table)
    if args.json:
        print(json.dumps(figures))
    return 0

"""`phi4 show MODEL`: its card, its shape, how it writes conversations, and what a token costs on this machine."""

import argparse
import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from phi4.cli.terminal import styled
from phi4.errors import DataError, ModelError, UsageError

if TYPE_CHECKING:
    from phi4.model.config import ModelConfig
    from phi4.text.templates import Message, Template
    from phi4.text.tokenizer import Tokenizer

HELP = (
    "Print a model's card, shape, chat form, memory and expected speed here; it need not be on this machine."
)

_CONTEXT = 4096  # tokens at which costs that grow with the context are given


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `phi4 show`."""
    parser.add_argument(
        "model", nargs="?", help="a short name (`phi4 models`), a model folder, a run or a .gguf file"
    )
    parser.add_argument("--ids", action="store_true", help="print the token ids of the example conversation")


@dataclass(frozen=True)
class Shown:
    """A model as far as it is known: from the catalogue alone, or from its files too."""

    name: str
    source: str
    licence: str
    config: "ModelConfig"
    template: "Template | None"
    tokenizer: "Tokenizer | None" = None  # where its files are on this machine
    scores: tuple[tuple[str, float], ...] = ()  # percent
    scores_from: str = ""


def run(args: argparse.Namespace) -> int:
    """Look, measure the memory's speed, print."""
    from phi4.cli.models import to_fetch
    from phi4.device import read_bandwidth

    missing = to_fetch(args.model)
    shown = _from_catalogue(missing) if missing else _from_files(args.model)
    if args.ids and shown.tokenizer is None:
        raise UsageError(
            f"the ids need {shown.name}'s tokenizer, which is not here",
            f"`phi4 pull {shown.name}` fetches it",
        )
    figures = costs(shown.config, read_bandwidth())
    _print(shown, figures)
    if shown.template is not None:
        print("\nA conversation, control tokens in brackets, up to where the answer begins:")
        print(transcript(shown.template))
        if args.ids and shown.tokenizer is not None:
            print("\n" + _ids(shown.tokenizer))
    if args.json:
        print(json.dumps(_plain(shown) | asdict(figures), ensure_ascii=False))
    return 0


@dataclass(frozen=True)
class Speed:
    """What one precision takes, and the most tokens per second this machine's memory allows with it."""

    weight_bytes: int
    read_bytes: int  # per token: all weights but the embedding table, of which one row is needed
    most_tokens_per_second: float  # at the start of a conversation
    most_at_context: float  # behind `Costs.at_context` tokens, whose keys and values are read too
    fits: bool


@dataclass(frozen=True)
class Costs:
    """Figures of a network on this machine."""

    parameters: int
    context: int
    kv_bytes_per_token: int  # in 16 bit
    forward_flops_per_token: int  # at `at_context` tokens
    at_context: int
    bandwidth: float  # bytes per second, measured
    precisions: dict[str, Speed]


def costs(config: "ModelConfig", bandwidth: float) -> Costs:
    """Figures of a network on a machine that reads `bandwidth` bytes of memory per second.

    No program can write faster than the bytes a token needs come out of memory: bandwidth / bytes is the ceiling.
    """
    from phi4.cli.catalog import fits, memory_bytes, weight_bytes
    from phi4.model import cost

    context = min(config.max_position_embeddings, _CONTEXT)
    table = 0 if config.tie_word_embeddings else 2 * config.vocab_size * config.hidden_size
    cache, memory = cost.kv_bytes_per_token(config), memory_bytes()
    return Costs(
        cost.parameters(config),
        config.max_position_embeddings,
        cache,
        cost.forward_flops_per_token(config, context),
        context,
        bandwidth,
        {
            name: Speed(
                size,
                size - table,
                bandwidth / (size - table),
                bandwidth / (size - table + cache * context),
                fits(size, memory),
            )
            for name, size in weight_bytes(config).items()
        },
    )


def example(template: "Template") -> "tuple[Message, ...]":
    """A short conversation in the roles the template has."""
    from phi4.text.templates import Message

    turns = (
        Message("user", "What is 2 + 2?"),
        Message("assistant", "4"),
        Message("user", "And 3 + 3?"),
    )
    system = Message("system", "Be brief.")
    try:
        list(template.parts((system, *turns), True))
    except DataError:  # a foreign template without a place for it
        return turns
    return (system, *turns)


def transcript(template: "Template") -> str:
    """The example conversation as the model is given it: `[control token]`, line ends as `\\n`."""
    from phi4.text.templates import Control

    return "".join(
        styled(f"[{part.token}]", "36") if isinstance(part, Control) else part.text.replace("\n", "\\n")
        for part in template.parts(example(template), True)
    )


def _ids(tokenizer: "Tokenizer") -> str:
    """`id text` of every token of the example conversation, a turn a line."""
    from phi4.text.chat import Conversation, render

    control = set(tokenizer.special.values())
    words = []
    for id in render(Conversation(example(tokenizer.template)), tokenizer, generation=True).ids:
        text = tokenizer.decode([id])
        word = (
            f"{id}{styled(f'[{text}]', '36')}"
            if id in control
            else f"{id}{json.dumps(text, ensure_ascii=False)}"
        )
        words.append(word + ("\n" if id in tokenizer.stop_ids else " "))
    return "".join(words).rstrip()


def _from_catalogue(name: str) -> Shown:
    """A published model that is not on this machine. Raises UsageError for one that nobody here knows."""
    from phi4.cli.models import not_here
    from phi4.weights.catalog import find

    entry = find(name)
    if entry is None:
        raise not_here(name)
    return Shown(
        entry.name,
        f"https://huggingface.co/{entry.repo} (not on this machine)",
        f"{entry.licence}{': ' + entry.note if entry.for_research_only else ''}",
        entry.config,
        entry.template,
        scores=entry.scores,
        scores_from=entry.scores_from,
    )


def _from_files(name: str | None) -> Shown:
    """A model on this machine, and what the catalogue says about it."""
    from phi4.cli.models import read_card, read_shape, resolve
    from phi4.text.tokenizer import Tokenizer
    from phi4.weights.catalog import find
    from phi4.weights.gguf_file import open_gguf
    from phi4.weights.gguf_tokenizer import read_tokenizer

    path = resolve(name)
    entry, card = find(name) if name else None, read_card(path)
    gguf = open_gguf(path) if path.suffix == ".gguf" else None
    tokenizer = read_tokenizer(gguf) if gguf else Tokenizer.load(path)
    try:
        template: Template | None = tokenizer.template
    except ModelError:  # a base model: it only completes text
        template = None
    licence = str(gguf.metadata.get("general.license", "")) if gguf else _readme_licence(path)
    if entry is not None:
        licence = f"{entry.licence}{': ' + entry.note if entry.for_research_only else ''}"
    measured = tuple((family.replace("_", " "), 100 * score) for family, score in card.scores)
    return Shown(
        entry.name if entry else card.name,
        str(path),
        licence or "not stated in its files",
        read_shape(path),
        template,
        tokenizer,
        measured or (entry.scores if entry else ()),
        "measured when it was made" if measured else entry.scores_from if entry else "",
    )


def _readme_licence(folder: Path) -> str:
    """The licence in the front matter of a model card, as the hub reads it."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")[:10_000]
    except OSError:
        return ""
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:\s*['\"]?([\w.+-]+)", front[1], re.MULTILINE) if front else None
    return found[1] if found else ""


def _print(shown: Shown, figures: Costs) -> None:
    from rich.console import Console
    from rich.table import Table

    card = Table(title=shown.name, title_justify="left", show_header=False)
    card.add_column(no_wrap=True)
    card.add_column(overflow="fold")
    for row in _rows(shown, figures):
        if row is None:
            card.add_section()
        else:
            card.add_row(*row)
    Console().print(card)
    speeds = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for number, title in enumerate(
        ("weights", "GB", "GB read/token", "tokens/s at most", f"behind {figures.at_context:,}", "")
    ):
        speeds.add_column(title, justify="right" if 0 < number < 5 else "left", no_wrap=True)
    for name, speed in figures.precisions.items():
        speeds.add_row(
            name,
            f"{speed.weight_bytes / 1e9:.2f}",
            f"{speed.read_bytes / 1e9:.2f}",
            f"{speed.most_tokens_per_second:.1f}",
            f"{speed.most_at_context:.1f}",
            "" if speed.fits else "too large here",
        )
    Console().print(speeds)
    print(
        f"at most = {figures.bandwidth / 1e9:.1f} GB/s, the reading speed of this machine's memory measured now, "
        "/ bytes read per token\n(weights without the embedding table, and the cache of what stands before)"
    )


def _rows(shown: Shown, figures: Costs) -> list[tuple[str, str] | None]:
    """(name, value) of each line of the card; None between its parts."""
    config, context = shown.config, figures.context
    rows: list[tuple[str, str] | None] = [("source", shown.source), ("licence", shown.licence)]
    if shown.scores:
        listed = ", ".join(f"{name} {score:.1f}" for name, score in shown.scores)
        rows.append(("scores", f"{listed} ({shown.scores_from})"))
    rows += [None, ("parameters", f"{figures.parameters:,}"), ("context", f"{context:,} tokens")]
    for name in (f.name for f in fields(config)):
        value = getattr(config, name)
        if (isinstance(value, str | bool | int | float) and value != 0) or value is False:
            plain = isinstance(value, bool | str) or value < 1
            rows.append((name, str(value) if plain else f"{value:,}"))
    rows.append(("rope", "longrope" if config.long_rope else "plain"))
    if config.quantization is not None:
        rows.append(("quantised", config.quantization.name))
    cache = figures.kv_bytes_per_token
    return [
        *rows,
        None,
        ("KV cache, 16 bit", f"{cache:,} bytes a token, {cache * context / 2**30:.2f} GiB at {context:,}"),
        ("FLOPs per token", f"{figures.forward_flops_per_token:.4g} at {figures.at_context:,} tokens"),
    ]


def _plain(shown: Shown) -> dict[str, object]:
    """The card for --json."""
    from phi4.text.templates import written

    template = shown.template
    return {
        "name": shown.name,
        "source": shown.source,
        "licence": shown.licence,
        "scores": dict(shown.scores),
        "scores_from": shown.scores_from,
        "template": template.name if template else "",
        "example": written(template, example(template), True) if template else "",
    }

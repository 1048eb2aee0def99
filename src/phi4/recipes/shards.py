"""From curated records to what a stage reads: the tokenizer, each stage's mixture, packed rows, held-out pages."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from phi4.data.ledger import Ledger, Step, funnel
from phi4.data.mixture import mix
from phi4.data.pack import Tokens, pack
from phi4.data.record import Record, plain_text
from phi4.data.synthetic.textbook import problem_document
from phi4.recipes.corpus import Sources
from phi4.recipes.recipe import Recipe
from phi4.run.files import write_json
from phi4.run.folder import RunFolder
from phi4.skills.catalog import family
from phi4.skills.family import STANDARD
from phi4.skills.split import distinct_problems
from phi4.text.chat import Conversation, render
from phi4.text.tokenizer import Tokenizer
from phi4.text.train_tokenizer import train_tokenizer

_TOKENIZER_BYTES = 6_000_000


def build_tokenizer(recipe: Recipe, sources: Sources) -> Tokenizer:
    """Train on an even sample of every source that any stage reads."""
    used = sorted({share.source for stage in recipe.stages for share in stage.mixture})
    budget = _TOKENIZER_BYTES // max(1, len(used))
    return train_tokenizer(_sample(sources, used, budget), recipe.vocab_size)


def pack_stages(recipe: Recipe, run: RunFolder, sources: Sources, tokenizer: Tokenizer) -> None:
    """Draw each stage's mixture, pack it, and write the mixture table, the funnel and the samples."""
    data = run.root / "data"
    ids = {name: _tokenise(records, tokenizer) for name, records in sources.by_name.items()}
    lengths = {name: [len(tokens) for tokens, _ in found] for name, found in ids.items()}
    drawn: set[str] = set()
    table: list[dict[str, Any]] = []
    for number, stage in enumerate(recipe.stages):
        shares = {share.source: share.fraction for share in stage.mixture}
        # A little more than is read: whole documents overshoot, and the loader should not begin a second epoch.
        order, rows = mix(lengths, shares, int(stage.tokens * 1.02), seed=recipe.seed * 101 + number)
        packed = pack(
            (ids[source][i] for source, i in order),
            data / "shards" / stage.name,
            stage.context,
            tokenizer.vocab_size,
        )
        drawn |= {sources.by_name[source][i].id for source, i in order}
        table += [
            {"stage": stage.name, "licence": _licences(sources.by_name[row.source]), **asdict(row)}
            for row in rows
        ]
        write_json(data / "shards" / f"{stage.name}.json", {"rows": packed.rows, "tokens": packed.tokens})
    with Ledger.open(run.root / "ledger").step("draw") as step:
        _settle_draw(step, sources, drawn)
    write_json(data / "mixture.json", table)
    write_json(data / "funnel.json", funnel(run.root / "ledger"))
    write_json(data / "samples.json", _samples(run, sources))


def _settle_draw(step: Step, sources: Sources, drawn: set[str]) -> None:
    for records in sources.by_name.values():
        step.input(record.id for record in records)
        for record in records:
            if record.id in drawn:
                step.keep(record.id)
            else:
                step.drop(record.id, "not-drawn", "no stage's token budget reached it")


def heldout_documents(recipe: Recipe, tokenizer: Tokenizer) -> tuple[list[Tokens], int]:
    """Pages of held-out problems for bits per byte of their solutions: (tokenised documents, bytes)."""
    pages, starts, size = [], [], 0
    for name in recipe.skills.families:
        problems = distinct_problems(
            family(name), held=True, level=STANDARD, percent=recipe.skills.held_out_percent
        )
        for form, problem in zip(range(8), problems, strict=False):
            page = problem_document(problem, form)
            pages.append(page)
            starts.append(page.rfind(problem.solution))
            size += len(problem.solution.encode())
    encoded = tokenizer.encode_from(pages, starts)
    # The end mark is no text: it is left out of the loss as it is left out of the bytes.
    return [([*ids, tokenizer.document_end_id], [*learn, 0]) for ids, learn in encoded], size


def _tokenise(records: Sequence[Record], tokenizer: Tokenizer) -> list[Tokens]:
    """Pages closed by the end mark, chats as the renderer gives them, each with what is to be learned of it.

    A problem's page is learned from its solution on: the names and numbers of a question are drawn at random, so
    nothing on the page could predict them, and their noise drowns the rest (LOG.md has the figures).
    """
    end = tokenizer.document_end_id
    pages = [record for record in records if not isinstance(record.content, Conversation)]
    encoded = tokenizer.encode_from(
        [plain_text(page) for page in pages], [page.meta.get("solution", 0) for page in pages]
    )
    rendered = (render(r.content, tokenizer) for r in records if isinstance(r.content, Conversation))
    return [
        *(([*ids, end], [*learn, 1]) for ids, learn in encoded),
        *((one.ids, one.loss_mask) for one in rendered),
    ]


def _sample(sources: Sources, names: Iterable[str], budget: int) -> Iterator[str]:
    """About `budget` bytes of each source, spread evenly over it."""
    for name in names:
        records = sources.by_name.get(name, ())
        size = sum(len(plain_text(record)) for record in records)
        stride = max(1, size // budget)
        yield from (plain_text(record) for record in records[::stride])


def _licences(records: Sequence[Record]) -> str:
    return ", ".join(sorted({record.licence for record in records}))


def _samples(run: RunFolder, sources: Sources, each: int = 2) -> list[dict[str, Any]]:
    """A few records of every source with the way they came, for the report."""
    found = []
    for name, records in sources.by_name.items():
        for record in records[:: max(1, len(records) // each)][:each]:
            text = plain_text(record)
            found.append(
                {
                    "record": record.id,
                    "title": f"{name}: {record.skill}",
                    "text": text if len(text) < 1500 else text[:1500] + " ...",
                    "lineage": [
                        {
                            "id": parent,
                            "step": "origin" if record.parents else record.lineage.step,
                            "source": record.source,
                            "licence": record.licence,
                            "generator": "",
                        }
                        for parent in record.parents[:5]
                    ]
                    + [
                        {
                            "id": record.id,
                            "step": record.lineage.step,
                            "source": record.source,
                            "licence": record.licence,
                            "generator": record.lineage.generator,
                        }
                    ],
                }
            )
    return found

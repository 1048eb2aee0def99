"""The data of a run: sources and problems -> verified and curated records -> tokenizer -> packed rows.

Every step is in the ledger. What is written here is a pure function of the recipe, the project's version and
the texts on the machine, whatever the number of workers.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from phi4.data.curate import Curation, curate
from phi4.data.decontaminate import EvaluationIndex
from phi4.data.dedup import Quotas
from phi4.data.ledger import Ledger, Step
from phi4.data.organic.documents import documents
from phi4.data.organic.sources import (
    OrganicSource,
    collect,
    pydoc_topics,
    stdlib_docstrings,
    stdlib_modules,
    textbook,
)
from phi4.data.record import (
    Lineage,
    Record,
    Text,
    derived_record,
    plain_text,
    read_records,
    root_id,
    root_record,
    write_records,
)
from phi4.data.synthetic.assembly import LICENCE, chapters, recall_records, sheets
from phi4.data.synthetic.problems import Draw, Page, draw_problems
from phi4.data.synthetic.smalltalk import smalltalk
from phi4.data.synthetic.textbook import problem_document
from phi4.evals.task import Task
from phi4.evals.tasks.skills import skill_tasks
from phi4.recipes.recipe import Recipe, Share, Skills, Stage
from phi4.run.files import write_json
from phi4.run.folder import RunFolder, fingerprint
from phi4.skills.catalog import family
from phi4.text.chat import Conversation, Message

SFT_START = 10_000_000  # first problem index of the conversations: none is also a page of pretraining
_CHUNK = 1_000  # problems per unit of parallel work
SHORT_SKILLS = ("arithmetic", "fractions", "equations", "sequences", "word problems", "logic", "code tracing")


@dataclass(frozen=True)
class Sources:
    """Records by the name under which a mixture draws them."""

    by_name: Mapping[str, tuple[Record, ...]]


def organic_sources(recipe: Recipe) -> list[OrganicSource]:
    """Everything people wrote that this run reads, fingerprinted."""
    size = recipe.organic.max_bytes
    found = [textbook(), pydoc_topics(size), stdlib_docstrings(size), stdlib_modules(size)]
    if recipe.organic.docs is not None:
        found.append(replace(documents(recipe.organic.docs), name="user-docs"))
    return found


@lru_cache(maxsize=2)
def evaluation_tasks(recipe: Recipe) -> tuple[Task, ...]:
    """The frozen held-out problems this run is measured on, transfer families included."""
    names = (*recipe.skills.families, *recipe.skills.transfer)
    tasks = skill_tasks(
        [family(name) for name in names],
        recipe.evaluation.problems,
        problem_document,
        shots=recipe.evaluation.shots,
        percent=recipe.skills.held_out_percent,
    )
    return tuple(tasks)


def build_corpus(
    recipe: Recipe, run: RunFolder, organic: Sequence[OrganicSource], tasks: Sequence[Task]
) -> dict[str, Any]:
    """Make, verify and curate every record; write data/records, the ledger and the run's data figures."""
    data, ledger = run.stage("data"), Ledger.open(run.root / "ledger")
    # Our own items are problems: written text is compared with their wording, problems with their keys.
    index = EvaluationIndex.build(
        [],
        {item.problem_key for task in tasks for item in task.items},
        problems=((f"{item.family}/{item.index}", item.question) for task in tasks for item in task.items),
    )
    pages, faults = _problem_pages(recipe, ledger, "problems", recipe.skills.problems, 0)
    texts = collect(organic, ledger)
    share = 1.0 if recipe.skills.one_template else 0.5
    curation = Curation(quotas=Quotas(recipe.skills.per_problem, template_share=share))
    judged = [*texts, *pages] if recipe.skills.curate else texts
    curated = curate(
        judged,
        ledger,
        index,
        curation,
        after=("sources", "verify") if recipe.skills.curate else ("sources",),
        signals_path=data / "signals.parquet",
    )
    chosen = curated.records if recipe.skills.curate else (*curated.records, *pages)
    assembled = _assembled(recipe, ledger, chosen)
    chats = _conversations(recipe, ledger, index, curation)
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in (*chosen, *assembled, *chats):
        groups[_mixture_name(record)].append(record)
    for name, records in groups.items():
        write_records(data / "records" / f"{name}.parquet", records)
    warnings = [line for source in organic for line in source.warnings()]
    summary = {
        "records": {name: len(records) for name, records in groups.items()},
        "sources": {source.name: source.fingerprint for source in organic},
        "faults": faults,
        "partly_contaminated": len(curated.partial),
        "warnings": warnings,
    }
    write_json(data / "corpus.json", summary)
    return summary


def read_corpus(run: RunFolder) -> Sources:
    """The records that `build_corpus` wrote."""
    folder = run.root / "data" / "records"
    paths = sorted(folder.glob("*.parquet"))
    return Sources({path.stem: tuple(read_records(path)) for path in paths})


def _problem_pages(
    recipe: Recipe, ledger: Ledger, step_name: str, count: int, start: int
) -> tuple[list[Record], dict[str, dict[str, int]]]:
    """Write and verify pages; the ledger gets one step for each. Returns the kept records and the fault table."""
    skills = recipe.skills
    draws = [
        replace(
            draw,
            noise=skills.noise,
            one_template=skills.one_template,
            answers_only=skills.answers_only,
            seed=recipe.seed,
        )
        for draw in _draws(skills, count, start)
    ]
    step_print = fingerprint(replace(skills, families=()))
    written: list[tuple[Record, Page]] = []
    with ledger.step(step_name) as step:
        for draw, pages in draw_problems(draws, recipe.workers):
            written += _enter(step, draw, pages, step_name, step_print)
    faults: dict[str, dict[str, int]] = defaultdict(lambda: {"written": 0, "refused": 0})
    kept = []
    with ledger.step("verify", after=(step_name,)) as step:
        step.input(record.id for record, _ in written)
        for record, page in written:
            refused = bool(page.reason) and skills.verify
            faults[page.fault or "none"]["written"] += 1
            faults[page.fault or "none"]["refused"] += refused
            if refused:
                step.drop(record.id, page.reason, page.fault)
            else:
                step.keep(record.id)
                kept.append(record)
    return kept, dict(faults)


def _draws(skills: Skills, count: int, start: int) -> list[Draw]:
    """`count` problems of every family, times its weight, from index `start` on, in units of parallel work."""
    return [
        Draw(
            name,
            start + first,
            start + min(first + _CHUNK, count * skills.times(name)),
            skills.levels,
            skills.held_out_percent,
        )
        for name in skills.families
        for first in range(0, count * skills.times(name), _CHUNK)
    ]


def _enter(
    step: Step, draw: Draw, pages: Sequence[Page], step_name: str, step_print: str
) -> Iterator[tuple[Record, Page]]:
    source = f"skills/{draw.family}"
    for page in pages:
        origin = root_id(
            source, page.locator.removesuffix("/1") if page.locator.count("/") > 1 else page.locator
        )
        copy = int(page.locator.count("/") > 1)
        record = derived_record(
            step_name,
            step_print,
            (origin,),
            copy,
            Text(page.text),
            kind="procedural",
            skill=draw.family,
            licence=LICENCE,
            source=source,
            generator="procedural teacher",
            problem_key=page.problem_key,
            template_id=page.template_id,
            meta={"level": page.level, "solution": page.start},
        )
        if not copy:
            step.input([origin])
            step.keep(origin, f"{source} {page.locator}")
        step.output(record.id, (origin,))
        yield record, page


def _conversations(
    recipe: Recipe, ledger: Ledger, index: EvaluationIndex, curation: Curation
) -> list[Record]:
    """SFT: solved problems in chat form, and the share of small talk that lets "hello" be answered."""
    skills = recipe.skills
    draws = _draws(skills, skills.conversations, SFT_START)
    step_print = fingerprint(skills.levels)
    records = []
    with ledger.step("sft.problems") as step:
        for draw, pages in draw_problems(draws, recipe.workers):
            for page in pages:
                origin = root_id(f"skills/{draw.family}", page.locator)
                turns = (Message("user", page.question), Message("assistant", page.solution))
                record = derived_record(
                    "sft.problems",
                    step_print,
                    (origin,),
                    0,
                    Conversation(turns),
                    kind="chat",
                    skill=draw.family,
                    licence=LICENCE,
                    source=f"skills/{draw.family}",
                    generator="procedural teacher",
                    problem_key=page.problem_key,
                    template_id=page.template_id,
                    meta={"level": page.level},
                )
                step.input([origin])
                if page.reason:
                    step.drop(origin, page.reason)
                    continue
                step.keep(origin)
                step.output(record.id, (origin,))
                records.append(record)
    kept = list(curate(records, ledger, index, curation, after=("sft.problems",), prefix="sft.").records)
    talk = [
        root_record(
            "smalltalk",
            str(i),
            smalltalk(i, recipe.name, SHORT_SKILLS),
            kind="chat",
            skill="smalltalk",
            licence=LICENCE,
            lineage=Lineage("smalltalk", fingerprint(recipe.name), "template"),
        )
        for i in range(round(len(kept) * recipe.smalltalk / (1 - recipe.smalltalk)))
    ]
    with ledger.step("smalltalk") as step:
        step.input(record.id for record in talk)
        step.keep_all(record.id for record in talk)
    return kept + talk


def _assembled(recipe: Recipe, ledger: Ledger, curated: Sequence[Record]) -> list[Record]:
    """Pages put together: two problems on a sheet for few-shot reading; for midtraining the long data, that is
    worksheets of one family, whole chapters and files, and key-value recall."""
    groups = list(sheets(curated, "sheets", recipe.pretrain.context * 2, most=400))
    if recipe.midtrain is not None:
        size = recipe.midtrain.context * 3  # characters: about what one context holds
        groups += [*sheets(curated, "worksheets", size, most=40), *chapters(curated, size)]
    found = []
    with ledger.step("assemble") as step:
        entered: set[str] = set()
        for number, (name, group) in enumerate(groups):
            ids = [record.id for record in group]
            new = [id for id in ids if id not in entered]
            entered.update(new)
            step.input(new)
            step.keep_all(new)
            text = "\n\n".join(plain_text(part) for part in group)
            record = derived_record(
                "assemble",
                name,
                ids,
                number,
                Text(text),
                kind=name,
                skill=group[0].skill,
                licence=group[0].licence,
                source=group[0].source,
                generator="assembly",
                meta={"solution": group[0].meta.get("solution", 0)},
            )
            step.output(record.id, ids)
            found.append(record)
        for record in recall_records(recipe.midtrain.context) if recipe.midtrain else ():
            step.input(record.parents)
            step.keep_all(record.parents)
            step.output(record.id, record.parents)
            found.append(record)
    return found


def _mixture_name(record: Record) -> str:
    if record.kind == "procedural":
        return "problems"
    if record.source == "user-docs" or record.licence == "user-provided":
        return "user-docs"
    if record.kind == "chat":
        return "smalltalk" if record.skill == "smalltalk" else "chat"
    return record.kind


def with_documents(recipe: Recipe, share: float = 0.1) -> Recipe:
    """Give the user's own documents their part of pretraining and midtraining; the others shrink evenly."""

    def widen(stage: Stage) -> Stage:
        others = tuple(Share(s.source, s.fraction * (1 - share)) for s in stage.mixture)
        return replace(stage, mixture=(*others, Share("user-docs", share)))

    return replace(
        recipe,
        pretrain=widen(recipe.pretrain),
        midtrain=widen(recipe.midtrain) if recipe.midtrain else None,
    )

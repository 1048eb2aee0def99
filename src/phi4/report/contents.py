"""What a run folder says, as typed values: the only thing the report's charts and page ever see.

Every field that a half-finished run may lack is optional or empty; nothing here is computed.
"""

from dataclasses import dataclass

STAGES = ("pretrain", "midtrain", "sft", "dpo")  # the stages that train, in the order they run


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the run was made; `matmul_gflops` is measured, the ceiling that MFU is a share of."""

    cpu: str
    cores: int | None
    memory_gb: float | None
    dtype: str
    matmul_gflops: tuple[tuple[str, float], ...]
    torch: str


@dataclass(frozen=True, slots=True)
class Setting:
    """One resolved configuration value and who set it ("recipe pico" or "--set")."""

    path: str
    value: str
    source: str


@dataclass(frozen=True, slots=True)
class Point:
    """One logged training step; `tokens` counts from the start of its own stage."""

    tokens: float
    loss: float | None
    tok_s: float | None
    mfu: float | None
    heldout_bpb: float | None


@dataclass(frozen=True, slots=True)
class TrainingStage:
    """One stage's metrics, in step order."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall time of one finished stage."""

    stage: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Score:
    """Accuracy, its 95 % interval and baselines, all in 0..1; `trained` is False for transfer families."""

    name: str
    n: int
    correct: int
    accuracy: float
    low: float
    high: float
    chance: float | None
    neighbour: float | None
    format_failures: float | None
    trained: bool


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All scores of the model as it stood after one stage; `overall` leaves transfer families out."""

    stage: str
    mode: str
    level: str
    families: tuple[Score, ...]
    overall: Score | None
    transfer: Score | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Recall:
    """Key-value recall at one context length, after one stage."""

    stage: str
    length: int
    n: int
    correct: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Example:
    """One unseen problem and what the model wrote."""

    stage: str
    family: str
    question: str
    reference: str
    response: str
    correct: bool


@dataclass(frozen=True, slots=True)
class FunnelStep:
    """One step of the ledger: how many records came in, how many stayed, why the others did not."""

    step: str
    inputs: int
    kept: int
    dropped: tuple[tuple[str, int], ...]
    failed: tuple[tuple[str, int], ...]
    pending: int
    outputs: int


@dataclass(frozen=True, slots=True)
class MixtureRow:
    """One source's share of one stage's tokens."""

    stage: str
    source: str
    licence: str
    fraction: float
    unique_tokens: int
    epochs: float
    tokens: int


@dataclass(frozen=True, slots=True)
class LineageStep:
    """One ancestor of a training record, or the record itself."""

    id: str
    step: str
    source: str
    licence: str
    generator: str


@dataclass(frozen=True, slots=True)
class Sample:
    """A training record as the model read it, with how it came to be."""

    record: str
    title: str
    text: str
    lineage: tuple[LineageStep, ...]


@dataclass(frozen=True, slots=True)
class PivotalPair:
    """One token that decided: the chance of a right answer before it, after it, and after the other token."""

    question_id: str
    family: str
    question: str
    accepted_text: str
    rejected_text: str
    p_prefix: float
    p_accepted: float
    p_rejected: float
    n_accepted: int
    n_rejected: int
    solution_tokens: tuple[str, ...]
    pivotal_index: int


@dataclass(frozen=True, slots=True)
class PivotalSummary:
    """What the search for pivotal tokens cost and found."""

    questions: int
    searched: int
    rollouts: int
    candidates: int
    confirmed: int
    undecided: int
    seconds: float | None


@dataclass(frozen=True, slots=True)
class AblationResult:
    """One arm of an ablation under one seed."""

    arm: str
    seed: str
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Ablation:
    """A set of arms that differ in one thing; the first arm is the reference."""

    name: str
    results: tuple[AblationResult, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """Everything the report tells about one run."""

    name: str
    fingerprint: str
    created: str
    version: str
    machine: Machine | None
    parameters: int | None
    settings: tuple[Setting, ...]
    unfinished: tuple[str, ...]
    timings: tuple[Timing, ...]
    training: tuple[TrainingStage, ...]
    evaluations: tuple[Evaluation, ...]
    recall: tuple[Recall, ...]
    examples: tuple[Example, ...]
    solved: tuple[Example, ...]
    missed: Example | None
    funnel: tuple[FunnelStep, ...]
    mixture: tuple[MixtureRow, ...]
    samples: tuple[Sample, ...]
    pivotal: PivotalSummary | None
    pairs: tuple[PivotalPair, ...]
    ablations: tuple[Ablation, ...]
    unreadable: tuple[str, ...]

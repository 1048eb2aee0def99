"""What a run is, as typed values: a recipe is a function that returns a `Recipe`, a variant replaces fields.

Everything here is plain data; `recipes/make.py` is the flow that carries it out.
"""

from dataclasses import dataclass, field
from pathlib import Path

from phi4.data.synthetic.teacher import Noise
from phi4.model.config import ModelConfig
from phi4.train.optim import OptimizerConfig


@dataclass(frozen=True)
class Skills:
    """Which families are taught, how many problems of each are written, and what the teacher does wrong."""

    families: tuple[str, ...]
    transfer: tuple[str, ...] = ()  # held out of training whole, asked in every evaluation
    weights: tuple[tuple[str, int], ...] = ()  # families with so many times the problems and conversations
    problems: int = 4_000  # per family, before curation
    conversations: int = 1_000  # per family, for SFT
    levels: tuple[float, float, float] = (0.25, 0.6, 0.15)  # shares of easy, standard and hard
    held_out_percent: int = 10
    per_problem: int = 4  # pages of one mathematical problem at most
    noise: Noise = Noise()
    verify: bool = True
    curate: bool = True
    answers_only: bool = False  # ablation: the working is left out
    one_template: bool = False  # ablation: every family is asked in a single wording

    def times(self, family: str) -> int:
        """How many times the ordinary number of problems a family gets."""
        return dict(self.weights).get(family, 1)


@dataclass(frozen=True)
class Organic:
    """Texts that people wrote. `docs` adds a folder of the user's own."""

    max_bytes: int = 400_000  # of each standard-library source
    docs: Path | None = None


@dataclass(frozen=True)
class Share:
    """One source's part of a stage's tokens."""

    source: str
    fraction: float


@dataclass(frozen=True)
class Stage:
    """One stage of training on text: what it reads and how. `tokens` is fixed; the machine decides the seconds."""

    name: str
    tokens: int
    context: int
    rows: int  # per step
    mixture: tuple[Share, ...]
    peak_lr: float
    warmup: float = 0.03
    final_lr: float = 0.0
    rope_theta: float = 10_000.0
    optimizer: OptimizerConfig = OptimizerConfig()
    checkpoint_every: int = 200  # steps

    @property
    def steps(self) -> int:
        """Optimizer steps that read `tokens` tokens."""
        return max(1, self.tokens // (self.rows * self.context))


@dataclass(frozen=True)
class Pivotal:
    """Pivotal token search on the SFT model (report section 4.3)."""

    questions: int  # asked to find those worth searching
    rollouts: int = 256  # per prefix at most
    temperature: float = 1.0
    max_tokens: int = 192
    in_flight: int = 32


@dataclass(frozen=True)
class Dpo:
    """Preference training on the pairs that the search confirmed."""

    epochs: int = 4
    pairs_per_step: int = 8
    peak_lr: float = 2e-4
    beta: float = 0.1
    checkpoint_every: int = 50  # steps
    optimizer: OptimizerConfig = OptimizerConfig("adamw", weight_decay=0.0)


@dataclass(frozen=True)
class Evaluation:
    """Held-out problems per family at the frozen level, after every stage."""

    problems: int = 200
    shots: int = 1
    recall_problems: int = 64  # key-value recall before and after midtraining
    base_problems: int = 50  # per family for base models, few-shot; 0 leaves them unmeasured


@dataclass(frozen=True)
class Recipe:
    """A whole run, from seeds to a model."""

    name: str
    minutes: float  # told to the user before it starts: what it took on two bf16-capable cores
    model: ModelConfig
    skills: Skills
    vocab_size: int
    pretrain: Stage
    sft: Stage
    midtrain: Stage | None = None
    pivotal: Pivotal | None = None
    dpo: Dpo | None = None
    organic: Organic = field(default_factory=Organic)
    evaluation: Evaluation = field(default_factory=Evaluation)
    smalltalk: float = 0.03  # share of SFT conversations
    induction: bool = True  # the first weights hold induction heads (model/induction.py)
    seed: int = 0
    dtype: str = ""  # compute dtype; empty: the faster one on this machine
    workers: int = 2

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of training on text, in order."""
        return tuple(stage for stage in (self.pretrain, self.midtrain, self.sft) if stage is not None)

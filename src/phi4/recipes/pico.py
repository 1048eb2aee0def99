"""pico: the whole recipe on one screen. About a million parameters, ten minutes on two bf16-capable cores.

The stages and the shape of the mixture follow the Phi-4 report (sections 2-4): synthetic textbook pages carry
the reasoning, organic text keeps the language, midtraining stretches the context with 30 % long data and 70 %
of what was read before, SFT teaches the conversation, pivotal tokens decide the preference pairs.
"""

from phi4.model.config import ModelConfig
from phi4.recipes.recipe import Dpo, Evaluation, Organic, Pivotal, Recipe, Share, Skills, Stage

FAMILIES = (
    "addition", "subtraction", "multiplication", "division", "fractions", "percentages", "units", "equations",
    "sequences", "number_theory", "sets", "ordering", "dates", "clock", "two_step", "three_step",
    "propositions", "syllogisms", "code_tracing", "lookup",
)  # fmt: skip
# How many times the ordinary number of pages: ten minutes do not teach twenty families alike, so these are taught well.
WEIGHTS = (
    ("addition", 4), ("subtraction", 4), ("multiplication", 4), ("division", 10), ("percentages", 4), ("units", 2),
    ("equations", 11), ("clock", 5), ("two_step", 4), ("three_step", 5), ("code_tracing", 8),
)  # fmt: skip
PAGES = (
    Share("problems", 0.76), Share("sheets", 0.15),
    Share("textbook", 0.04), Share("docs", 0.03), Share("code", 0.02),
)  # fmt: skip
LONG = (Share("worksheets", 0.10), Share("chapters", 0.08), Share("recall", 0.12))


def pico() -> Recipe:
    """The recipe that `make run` carries out."""
    return Recipe(
        name="pico",
        minutes=10,
        model=ModelConfig(
            vocab_size=2_048,
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            intermediate_size=384,
            max_position_embeddings=1_024,
            rope_theta=12_500.0,
            initializer_range=0.06,
            tie_word_embeddings=True,
        ),
        skills=Skills(
            families=FAMILIES,
            transfer=("averages", "ages"),
            weights=WEIGHTS,
            problems=900,
            conversations=280,
            levels=(0.2, 0.7, 0.1),
        ),
        organic=Organic(max_bytes=400_000),
        vocab_size=2_048,
        pretrain=Stage(
            "pretrain",
            tokens=5_500_000,
            context=256,
            rows=8,
            mixture=PAGES,
            peak_lr=4e-3,
            rope_theta=10_000.0,
        ),
        midtrain=Stage(
            "midtrain",
            tokens=250_000,
            context=1_024,
            rows=4,
            mixture=(*(Share(s.source, 0.7 * s.fraction) for s in PAGES), *LONG),
            peak_lr=4e-4,
            rope_theta=12_500.0,
        ),
        sft=Stage(
            "sft",
            tokens=1_000_000,
            context=256,
            rows=16,
            mixture=(Share("chat", 0.97), Share("smalltalk", 0.03)),
            peak_lr=8e-4,
            rope_theta=12_500.0,
        ),
        pivotal=Pivotal(questions=16, rollouts=128),
        dpo=Dpo(epochs=2, peak_lr=3e-6),
        evaluation=Evaluation(problems=200),
    )

"""tiny: the whole path on six families in under a minute. A first look, and what the tests run."""

from phi4.model.config import ModelConfig
from phi4.recipes.recipe import Evaluation, Organic, Recipe, Share, Skills, Stage

FAMILIES = ("multiplication", "percentages", "clock", "units", "two_step", "three_step")


def tiny() -> Recipe:
    """Six families, a quarter of a million parameters, pretraining and SFT only."""
    return Recipe(
        name="tiny",
        minutes=1,
        model=ModelConfig(
            vocab_size=768,
            hidden_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            intermediate_size=256,
            max_position_embeddings=256,
            initializer_range=0.06,
            tie_word_embeddings=True,
        ),
        skills=Skills(families=FAMILIES, problems=2_000, conversations=500),
        organic=Organic(max_bytes=60_000),
        vocab_size=768,
        pretrain=Stage(
            "pretrain",
            tokens=850_000,
            context=256,
            rows=8,
            mixture=(
                Share("problems", 0.75),
                Share("sheets", 0.15),
                Share("textbook", 0.06),
                Share("docs", 0.04),
            ),
            peak_lr=6e-3,
            rope_theta=2_000.0,
        ),
        sft=Stage(
            "sft",
            tokens=200_000,
            context=256,
            rows=8,
            mixture=(Share("chat", 0.97), Share("smalltalk", 0.03)),
            peak_lr=4e-3,
            rope_theta=2_000.0,
        ),
        evaluation=Evaluation(problems=40, base_problems=20),
    )

"""tiny: the whole path on six families in under a minute. A first look, and what the tests run."""

from phi4.model.config import ModelConfig
from phi4.recipes.recipe import Evaluation, Organic, Recipe, Share, Skills, Stage

FAMILIES = ("addition", "multiplication", "sequences", "sets", "clock", "lookup")


def tiny() -> Recipe:
    """Six families, a quarter of a million parameters, pretraining and SFT only."""
    return Recipe(
        name="tiny",
        minutes=1,
        model=ModelConfig(
            vocab_size=768,
            hidden_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=192,
            max_position_embeddings=256,
            tie_word_embeddings=True,
        ),
        skills=Skills(families=FAMILIES, problems=1_200, conversations=300),
        organic=Organic(max_bytes=60_000),
        vocab_size=768,
        pretrain=Stage(
            "pretrain",
            tokens=800_000,
            context=256,
            rows=8,
            mixture=(Share("problems", 0.9), Share("textbook", 0.06), Share("docs", 0.04)),
            peak_lr=8e-3,
        ),
        sft=Stage(
            "sft",
            tokens=160_000,
            context=256,
            rows=8,
            mixture=(Share("chat", 0.97), Share("smalltalk", 0.03)),
            peak_lr=3e-3,
        ),
        evaluation=Evaluation(problems=40),
    )

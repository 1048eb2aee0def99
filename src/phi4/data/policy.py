"""Policies: thresholds applied to signals. Deciding costs nothing, so they can be tuned on stored signals.

The defaults are Gopher's (Rae et al. 2021, appendix A1.1). The presets loosen what those get wrong on
technical writing: short reference entries, formulae that are not words, code without stop words or sentences.
"""

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

from phi4.data.signals import Signals


class Rejection(NamedTuple):
    """Why a text is not kept: a code that is counted, and the value against its threshold."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Policy:
    """Limits on signals. `min_X` and `max_X` bound the signal X; a text at the limit is kept.

    Limits on repetition mean little on a short passage, where one phrase used twice is much of the text: they
    apply from `repetition_words` words on.
    """

    min_words: float = 50
    max_words: float = 100_000
    min_mean_word_length: float = 3.0
    max_mean_word_length: float = 10.0
    min_alpha_word_fraction: float = 0.8
    min_stop_words: float = 2
    max_hash_word_ratio: float = 0.1
    max_ellipsis_word_ratio: float = 0.1
    max_bullet_line_fraction: float = 0.9
    max_ellipsis_line_fraction: float = 0.3
    max_longest_line: float = 20_000
    max_digit_fraction: float = 0.3
    max_replaced_fraction: float = 0.001
    max_lorem_ipsum: float = 0
    min_compression_ratio: float = 0.1
    repetition_words: int = 100
    max_duplicate_line_fraction: float = 0.3
    max_duplicate_line_characters: float = 0.2
    max_duplicate_paragraph_fraction: float = 0.3
    max_duplicate_paragraph_characters: float = 0.2
    max_top_2_gram: float = 0.20
    max_top_3_gram: float = 0.18
    max_top_4_gram: float = 0.16
    max_duplicate_5_gram: float = 0.15
    max_duplicate_6_gram: float = 0.14
    max_duplicate_7_gram: float = 0.13
    max_duplicate_8_gram: float = 0.12
    max_duplicate_9_gram: float = 0.11
    max_duplicate_10_gram: float = 0.10

    def decide(self, signals: Signals) -> Rejection | None:
        """The first limit that the signals break, in the order of the fields; None keeps the text."""
        repetitive = signals.words >= self.repetition_words
        for limit in _LIMITS:
            if limit.repetition and not repetitive:
                continue
            value, bound = getattr(signals, limit.signal), getattr(self, limit.field)
            if (value > bound) if limit.upper else (value < bound):
                side = "above" if limit.upper else "below"
                reason = f"{limit.signal.replace('_', '-')}-{'high' if limit.upper else 'low'}"
                return Rejection(reason, f"{limit.signal} {float(value):.4g} is {side} {bound:g}")
        return None


class _Limit(NamedTuple):
    field: str
    signal: str
    upper: bool
    repetition: bool


_LIMITS = tuple(
    _Limit(
        field=field.name,
        signal=field.name[4:],
        upper=field.name.startswith("max_"),
        repetition=field.name.startswith(("max_duplicate_", "max_top_")),
    )
    for field in fields(Policy)
    if field.name != "repetition_words"
)

TEXTBOOK = replace(
    Policy(),
    min_words=10,  # a definition or a short exercise is worth keeping
    min_mean_word_length=2.0,  # worked arithmetic: "3 + 4 = 7"
    min_alpha_word_fraction=0.35,
    min_stop_words=0,
    max_hash_word_ratio=0.3,  # markdown headings
    max_digit_fraction=0.5,
    max_duplicate_line_fraction=0.5,  # exercises repeat their wording
    max_duplicate_line_characters=0.4,
    max_duplicate_5_gram=0.40,
    max_duplicate_6_gram=0.38,
    max_duplicate_7_gram=0.36,
    max_duplicate_8_gram=0.34,
    max_duplicate_9_gram=0.32,
    max_duplicate_10_gram=0.30,
)

DOCS = replace(
    Policy(),
    min_words=8,  # one-sentence docstrings
    min_mean_word_length=2.0,  # "Same as a % b."
    max_mean_word_length=14.0,
    min_alpha_word_fraction=0.4,  # ">>> covariance(x, y)" and rows of numbers
    min_stop_words=0,
    max_hash_word_ratio=0.3,
    max_ellipsis_word_ratio=0.2,  # "..." stands for arguments and for continued prompts
    max_bullet_line_fraction=1.0,
    max_duplicate_line_fraction=0.4,
    max_duplicate_line_characters=0.3,
    max_top_2_gram=0.25,
    max_duplicate_5_gram=0.40,  # grammars, tables and signatures repeat themselves
    max_duplicate_6_gram=0.38,
    max_duplicate_7_gram=0.36,
    max_duplicate_8_gram=0.34,
    max_duplicate_9_gram=0.32,
    max_duplicate_10_gram=0.30,
)

CODE = replace(
    DOCS,
    min_mean_word_length=1.5,
    max_mean_word_length=20.0,
    max_hash_word_ratio=0.5,
    max_longest_line=2_000,  # longer ones are data or minified
    max_duplicate_line_fraction=0.6,  # "return None", "else:", closing brackets
    max_duplicate_line_characters=0.45,
)

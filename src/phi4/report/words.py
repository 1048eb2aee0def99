"""Numbers and names as a reader wants them: percentages, durations, large counts, family names."""

NARROW_SPACE = "\N{NARROW NO-BREAK SPACE}"
_TITLES = {
    "pretrain": "Pretrain",
    "midtrain": "Midtrain",
    "sft": "SFT",
    "dpo": "Pivotal DPO",
    "data": "Data",
    "tokenizer": "Tokenizer",
    "pivotal": "Pivotal search",
    "evals": "Evaluation",
    "model": "Model folder",
}


def percent(rate: float, digits: int = 0) -> str:
    """0.925 -> "92 %"; never rounds something imperfect up to 100 or something positive down to 0."""
    number = f"{100 * rate:.{digits}f}"
    if (float(number) == 100 and rate < 1) or (float(number) == 0 and rate > 0):
        number = f"{100 * rate:.1f}" if 0.0005 <= rate < 0.9995 else ("<0.1" if rate < 0.5 else ">99.9")
    return f"{number}{NARROW_SPACE}%"


def bare_percent(rate: float) -> str:
    """A percentage without its sign, for table cells whose header carries it."""
    return percent(rate).removesuffix(f"{NARROW_SPACE}%")


def points(difference: float) -> str:
    """A difference of two rates in percentage points, with its sign: "−12.4 points"."""
    return f"{100 * difference:+.1f} points".replace("-", "\N{MINUS SIGN}")


def duration(seconds: float) -> str:
    """Seconds as "48 s", "9 min 42 s" or "3 h 05 min"."""
    total = round(seconds)
    if total < 60:
        return f"{total}{NARROW_SPACE}s"
    minutes, rest = divmod(total, 60)
    if minutes < 60:
        return f"{minutes}{NARROW_SPACE}min {rest:02d}{NARROW_SPACE}s"
    return f"{minutes // 60}{NARROW_SPACE}h {minutes % 60:02d}{NARROW_SPACE}min"


def amount(number: float) -> str:
    """A count in three digits: "812", "12.3 K", "1.21 M"."""
    for scale, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(number) >= scale:
            return f"{number / scale:.3g}{NARROW_SPACE}{unit}"
    return f"{number:.3g}"


def title(name: str) -> str:
    """A stage's or family's identifier as words: "two_step_words" -> "Two step words"."""
    if name in _TITLES:
        return _TITLES[name]
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:]

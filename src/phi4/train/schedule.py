"""Learning rate over a stage: linear warm-up, then linear decay, as the report trains."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Peak rate, share of the steps spent warming up, and the share of the peak that is left at the end."""

    peak_lr: float
    warmup: float = 0.05
    final: float = 0.0

    def scale(self, step: int, steps: int) -> float:
        """Factor on the peak for step `step` of `steps` (0-based)."""
        warm = max(1, round(self.warmup * steps))
        if step < warm:
            return (step + 1) / warm
        return 1 - (1 - self.final) * (step - warm) / max(1, steps - warm)

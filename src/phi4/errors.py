"""Typed errors. Every one is a single clear line (what, where) plus a hint (what to do)."""

_LONGEST = 800  # characters of a message


class Phi4Error(Exception):
    """Base of everything the command line reports without a traceback."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = _one_line(message)
        self.hint = _one_line(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


def _one_line(text: str) -> str:
    """Names and values come from foreign files: nothing in them may break the line or act on the terminal."""
    flat = text.replace("\r", " ").replace("\n", " ")
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in flat)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]} …"


class UsageError(Phi4Error):
    """The command was called wrongly: unknown recipe, model, family or option value."""

    exit_code = 2


class ConfigError(Phi4Error):
    """A configuration key or value is not one the recipe has."""

    exit_code = 2


class DataError(Phi4Error):
    """An input document or data file cannot be used."""


class RunError(Phi4Error):
    """A run folder is locked, half-written, full or otherwise not usable."""


class ModelError(Phi4Error):
    """A model folder or weight file cannot be used."""


class LedgerError(Phi4Error):
    """A record disappeared or appeared from nowhere: the accounting does not balance."""


class BusyError(Phi4Error):
    """More is asked for than can be taken in now; it may be asked again."""

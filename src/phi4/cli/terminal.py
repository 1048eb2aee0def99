"""What is put on a terminal: colours where they are wanted, an answer as it comes, nothing that moves the cursor."""

import os
import sys
import unicodedata


def styled(text: str, code: str) -> str:
    """Text with an ANSI style, unless standard output is no terminal or its owner wants none."""
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return text if plain else f"\x1b[{code}m{text}\x1b[0m"


def bold(text: str) -> str:
    """For names."""
    return styled(text, "1")


def dim(text: str) -> str:
    """For what is said beside the matter."""
    return styled(text, "2")


def printable(text: str) -> str:
    """Text that is safe on a terminal: what a model writes must not move cursors or set titles."""
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf")
        else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )


class Screen:
    """Standard output for one answer.

    On a terminal a thought streams by dimmed, then the solution plain. Into a pipe goes the solution alone: as it
    comes when there is no thought, and at the end, cut behind the last end-of-thinking mark, when there is one.
    """

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._thought = False

    def think(self, text: str) -> None:
        """A piece of the thought."""
        self._thought = True
        if self._terminal:
            print(dim(printable(text)), end="", flush=True)

    def say(self, text: str) -> None:
        """A piece of the solution."""
        if self._thought and not self._terminal:
            return
        if self._thought:
            print("\n")
            self._thought = False
        print(printable(text) if self._terminal else text, end="", flush=True)

    def end(self, solution: str) -> None:
        """The answer is whole: `solution` is what of it counts."""
        print("" if self._terminal or not self._thought else solution, flush=True)

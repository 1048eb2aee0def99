"""The recipes there are."""

import difflib
from collections.abc import Callable

from phi4.errors import UsageError
from phi4.recipes.pico import pico
from phi4.recipes.recipe import Recipe
from phi4.recipes.tiny import tiny

RECIPES: tuple[Callable[[], Recipe], ...] = (tiny, pico)


def recipe(name: str) -> Recipe:
    """The recipe of that name. Raises UsageError with the names there are."""
    known = {make.__name__: make for make in RECIPES}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"unknown recipe {name}", f"{hint}recipes: {', '.join(known)}")
    return known[name]()

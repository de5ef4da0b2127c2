"""What a shell offers to complete: recipes, devices, trackers and settings. Nothing here imports torch."""

from collections.abc import Iterator
from typing import get_args

from reflow.recipes.choices import TrackerName


def recipes(incomplete: str) -> Iterator[str]:
    """Yield the built-in recipes that begin so."""
    from reflow.recipes.read import built_in_recipes

    yield from (name for name in built_in_recipes() if name.startswith(incomplete))


def devices(incomplete: str) -> Iterator[str]:
    """Yield the names of devices that begin so."""
    yield from (name for name in ("auto", "cpu", "cuda", "mps") if name.startswith(incomplete))


def trackers(incomplete: str) -> Iterator[str]:
    """Yield the experiment trackers that begin so."""
    yield from (name for name in get_args(TrackerName) if name.startswith(incomplete))


def settings(incomplete: str) -> Iterator[str]:
    """Yield `section.key=` of the settings that begin so."""
    from reflow.recipes.read import known_settings

    yield from (f"{name}=" for name in known_settings() if name.startswith(incomplete))

"""How a command shows its usage, and how completion stays quiet."""

import os
import re
from typing import Any

import typer
import typer.core

COMPLETING = "_REFLOW_COMPLETE"  # set by a shell that asks for completions


class Command(typer.core.TyperCommand):
    """A command whose usage line reads `reflow couple [OPTIONS] MODEL`, without braces."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the usage line, an argument's metavar as it was written."""
        pieces = super().collect_usage_pieces(ctx)
        return [re.sub(r"\{(.*?)\}(\.\.\.)?|\[(\[.*\])\]", r"\1\3", piece) for piece in pieces]

    def make_context(self, *arguments: Any, **named: Any) -> Any:
        """Return the context of a command; say plainly what is wrong with an option."""
        try:
            return super().make_context(*arguments, **named)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise


def completing() -> bool:
    """Return whether a shell asks for completions, and not a person for a command."""
    return COMPLETING in os.environ

"""The usage line of a command, and wrong usage as one line."""

import re
from typing import Any

import typer.core


class Command(typer.core.TyperCommand):
    """A command whose usage line reads `reflow couple [OPTIONS] MODEL`, without braces."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the usage line, an argument's metavar as it was written."""
        pieces = super().collect_usage_pieces(ctx)
        return [re.sub(r"\{(.*?)\}(\.\.\.)?|\[(\[.*\])\]", r"\1\3", piece) for piece in pieces]


def wrong_usage(error: Exception) -> tuple[str, int] | None:
    """Return what typer found wrong with a command, and the exit code; None for other errors."""
    if not hasattr(error, "format_message"):
        return None
    said = str(error.format_message()).replace("Value error, ", "").rstrip(".")
    context = getattr(error, "ctx", None)
    command = "reflow" if context is None else context.command_path
    return f"{said[:1].lower()}{said[1:]}; see {command} --help", int(getattr(error, "exit_code", 2))

"""The exceptions that the command line turns into one line and an exit code.

`ReflowError` is what a user can cause; its text names the file or the option and the remedy.
"""


class ReflowError(ValueError):
    """Something the user can fix: exit code 1."""


class UsageError(ReflowError):
    """Options that contradict each other or miss something: exit code 2."""


class Interrupted(Exception):  # noqa: N818 (nothing went wrong)
    """A signal arrived and what was done is saved: exit code 128 + signal number."""

    def __init__(self, signal_number: int, where: str) -> None:
        super().__init__(f"interrupted {where}")
        self.exit_code = 128 + signal_number

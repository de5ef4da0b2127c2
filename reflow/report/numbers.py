"""Numbers as the page writes them: of few digits, with true minus signs and raised powers of ten."""

UNKNOWN = "n/a"  # a figure that could not be computed
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def tell(value: float | None, digits: int = 3) -> str:
    """Return a number with this many significant digits, never in powers of ten above 1."""
    if value is None:
        return UNKNOWN
    return _set(f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}")


def tell_zeros(value: float | None, digits: int = 3) -> str:
    """Return the number as `tell` does, with its zeros at the end: in columns."""
    if value is None or value == 0 or abs(value) >= 10 ** (digits - 1):
        return tell(value, digits)
    return _set(f"{value:#.{digits}g}")


def tell_error(value: float | None, error: float | None, digits: int = 3) -> str:
    """Return a number with its standard error; an error of nothing says nothing."""
    told = tell_zeros(value, digits)
    return f"{told} ± {tell_zeros(error, 2)}" if error else told


def milliseconds(seconds: float) -> str:
    """Return a time in thousandths of a second."""
    return tell_zeros(1000 * seconds)


def _set(text: str) -> str:
    mantissa, _, power = text.partition("e")
    raised = f"\N{MULTIPLICATION SIGN}10{str(int(power)).translate(RAISED)}" if power else ""
    return mantissa.removesuffix(".").replace("-", "\N{MINUS SIGN}") + raised

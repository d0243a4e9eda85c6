"""How numbers are written, in text that is later escaped for Markdown, LaTeX or HTML."""

from __future__ import annotations

from collections.abc import Mapping

from paper.table import Interval

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"


def number(value: float, digits: int) -> str:
    """A number with a fixed count of decimals, thousands apart, a true minus sign."""
    text = f"{value:,.{digits}f}".replace(",", "\N{THIN SPACE}")
    if not text.strip("-0."):
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def signed(value: float, digits: int) -> str:
    """A difference: as `number`, with a plus where it is positive."""
    text = number(value, digits)
    return text if text.startswith(MINUS) or not text.strip("0.") else f"+{text}"


def bounds(interval: Interval, digits: int, *, sign: bool = False) -> str:
    """An interval's bounds in brackets; nothing where there are none."""
    if interval.low is None or interval.high is None:
        return ""
    write = signed if sign else number
    return f"[{write(interval.low, digits)}, {write(interval.high, digits)}]"


def estimate(interval: Interval, digits: int) -> str:
    """A mean and its interval."""
    return f"{number(interval.mean, digits)} {bounds(interval, digits)}".rstrip()


def difference(interval: Interval, digits: int) -> str:
    """A difference and its interval, with signs."""
    return f"{signed(interval.mean, digits)} {bounds(interval, digits, sign=True)}".rstrip()


def setting(value: object) -> str:
    """A setting's value as a reader writes it: 1e-4 as 0.0001, lists with commas, none as such."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {setting(entry)}" for key, entry in value.items()) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _decimal(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(setting(entry) for entry in value) or "none"
    return str(value)


def percent(share: float) -> str:
    """A share in whole percent."""
    return f"{number(100 * share, 0)}%"


def p_value(p: float) -> str:
    """A p-value to three decimals, or below what they show."""
    return "p < 0.001" if p < 0.001 else f"p = {number(p, 3)}"


def duration(seconds: float) -> str:
    """A time span in the largest fitting unit."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{number(seconds / size, 1)} {unit}"
    return f"{number(seconds, 1)} s"


def _decimal(value: float) -> str:
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:g}".replace("-", MINUS)
    mantissa, exponent = f"{value:e}".split("e")
    superscript = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{float(mantissa):g}×10{superscript}".replace("-", MINUS)

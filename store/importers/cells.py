"""Cells of a table as text and numbers, refused with file, row and column where they are not what they should be."""

from __future__ import annotations

import math
import re
from typing import Any

from ..errors import ImportRefused
from .sequences import storable

LARGEST = 2**31 - 1
_WHOLE = re.compile(r"[+-]?[0-9]{1,20}(\.0+)?")
"""As programs write whole numbers: no `1_0`, no digits of other scripts; `3.0` is what pandas makes of a column with
gaps."""
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


class Cells:
    """Cells of one file."""

    def __init__(self, name: str):
        self.name = name

    def refuse(self, row: int, column: str, message: str) -> ImportRefused:
        shown = column.encode("utf-8", "replace").decode()
        return ImportRefused(f"{self.name}, row {row}, column {shown}: {message}")

    def text(self, row: int, column: str, value: Any) -> str:
        if isinstance(value, list | dict | bytes):
            raise self.refuse(row, column, "it must be text or a number")
        return storable(value, f"{self.name}, row {row}, column {column.encode('utf-8', 'replace').decode()}")

    def whole(self, row: int, column: str, value: Any, *, largest: int = LARGEST) -> int:
        number = value
        if isinstance(value, str):
            number = int(value.split(".")[0]) if _WHOLE.fullmatch(value.strip()) else None
        elif isinstance(value, float):
            number = int(value) if value.is_integer() else None
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= largest:
            raise self.refuse(row, column, f"{repr(value)[:40]} is not a whole number from 0 to {largest}")
        return number

    def number(self, row: int, column: str, value: Any, *, largest: float) -> float:
        number = math.nan
        if isinstance(value, int | float) and not isinstance(value, bool):
            number = float(value) if abs(value) < 1e300 else math.inf
        elif isinstance(value, str) and len(value) < 64 and _NUMBER.fullmatch(value.strip()):
            number = float(value)
        if not math.isfinite(number):
            raise self.refuse(row, column, f"{repr(value)[:40]} is not a finite number")
        if abs(number) > largest:
            raise self.refuse(
                row, column, f"{number:g} is beyond {largest:g}, the largest that can be stored"
            )
        return number


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: no value, or the NaN that data frames put there."""
    return value is None or (isinstance(value, float) and math.isnan(value))

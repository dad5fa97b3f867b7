"""What a topology file says of a network, as plain values."""

from __future__ import annotations

from typing import TypeAlias, Union

Value: TypeAlias = Union[str, int, bool, "list[Value]", "dict[str, Value]"]


class Unsaid(Exception):
    """Why a topology file cannot say something."""

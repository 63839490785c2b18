"""Who answers calls of public functions, where results of earlier runs are kept: `deferred` enters itself here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

answering: list[Callable[[str, Callable[[], Any], tuple[Any, ...], dict[str, Any]], Any]] = []
"""Each is called with a function's name, what imports it, and its arguments; the last one answers."""

"""Real code for tests: functions of the standard library, the same ones on every run of one Python."""

from __future__ import annotations

import ast
from functools import lru_cache
from pathlib import Path


@lru_cache
def functions(count: int, shortest: int = 80, longest: int = 320) -> tuple[str, ...]:
    """Plain functions at the top of modules, up to six of each, of so many characters, ASCII alone."""
    found: list[str] = []
    for path in sorted(Path(ast.__file__).parent.glob("*.py")):
        source = path.read_text(encoding="utf-8")
        if not source.isascii():
            continue
        lines, fit = source.split("\n"), []
        for node in ast.parse(source).body:
            if not isinstance(node, ast.FunctionDef) or node.decorator_list:
                continue
            text = "\n".join(lines[node.lineno - 1 : node.end_lineno])
            formatted = any(isinstance(inner, ast.JoinedStr) for inner in ast.walk(node))
            if shortest <= len(text) <= longest and text not in (*found, *fit) and not formatted and "\f" not in text:
                fit.append(text)
        found.extend(fit[:6])
        if len(found) >= count:
            return tuple(found[:count])
    raise AssertionError(f"only {len(found)} functions")

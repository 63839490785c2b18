"""Shared fixtures: offline throughout; real assets where they are, tiny models everywhere."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads cost more than they give

import pytest

pytest_plugins = ["pytester"]

ASSETS = Path(os.environ.get("BERTOLOGY_ASSETS") or Path(__file__).parents[2] / "shared" / "assets")


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real checkpoints and data beside the project; skips where it is absent."""
    if not (ASSETS / "checkpoints").is_dir():
        pytest.skip(f"no real checkpoints and data at {ASSETS}")
    return ASSETS

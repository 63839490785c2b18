"""A tiny real checkpoint and task on disk, and suites that test them: in this process wherever that can be."""

from __future__ import annotations

import pkgutil
import re
import shutil
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import pytest_bertology
from pytest_bertology.plugin.options import OPTIONS

_QUIET = ("-p", "no:cacheprovider")
_LOOKING = """
    import torch

    def masked_heads(model):
        found = set()

        def look(layer):
            def hook(module, args):
                heads = args[0].reshape(*args[0].shape[:-1], 4, 4)
                found.update((layer, head) for head in range(4) if not heads[..., head, :].any())
            return hook

        handles = [
            layer.attention.output.dense.register_forward_pre_hook(look(index))
            for index, layer in enumerate(model.model.bert.encoder.layer)
        ]
        model.model(input_ids=torch.tensor([[5, 6, 7, 8]]))
        for handle in handles:
            handle.remove()
        return found
"""
"""A module for suites: which heads are masked, read from the zeros that arrive at BERT's own output projections."""


class Suite:
    """A suite in a folder of its own, run with the tiny model and task unless told otherwise."""

    def __init__(self, pytester: pytest.Pytester, model: Path, task: Path) -> None:
        self.pytester = pytester
        self.path = pytester.path
        self.model = model
        self.task = task

    def write(self, source: str = "", conftest: str = "") -> None:
        """Write the test module `test_release.py`, a conftest.py, and the module `looking`."""
        if "looking" in source + conftest:
            self.pytester.makepyfile(looking=_LOOKING)
            self.pytester.syspathinsert()
        if source:
            self.pytester.makepyfile(test_release=source)
        if conftest:
            self.pytester.makeconftest(conftest)

    def run(self, source: str = "", *arguments: str, conftest: str = "") -> pytest.RunResult:
        """Run with the tiny model and task."""
        return self.bare(source, *self.given, *arguments, conftest=conftest)

    def bare(self, source: str = "", *arguments: str, conftest: str = "") -> pytest.RunResult:
        """Run with these arguments alone."""
        self.write(source, conftest)
        return self.pytester.runpytest_inprocess(*_QUIET, *arguments)

    def apart(self, source: str = "", *arguments: str, conftest: str = "") -> pytest.RunResult:
        """Run with these arguments alone, in a process of its own."""
        self.write(source, conftest)
        return self.pytester.runpytest_subprocess(*_QUIET, *arguments, timeout=120)

    @property
    def given(self) -> tuple[str, str]:
        """The options that name the tiny model and task."""
        return f"--bertology-model={self.model}", f"--bertology-task={self.task}"

    def refused(self, source: str = "", *arguments: str, conftest: str = "") -> str:
        """Run what pytest must refuse as bad usage; return its message."""
        result = self.bare(source or "def test_nothing(): pass", *arguments, conftest=conftest)
        assert result.ret == pytest.ExitCode.USAGE_ERROR, result.stdout.str()
        assert "Traceback" not in result.stderr.str()
        return result.stderr.str().strip()

    def header(self, *arguments: str) -> list[str]:
        """What the header says of this plugin's settings."""
        result = self.bare("def test_nothing(): pass", "--collect-only", *arguments)
        assert result.ret == 0, result.stderr.str()
        return [line.removeprefix("bertology ") for line in result.outlines if line.startswith("bertology")]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other take most of the time of models as small as these, on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def _imported(checkpoint: Path) -> None:
    """Import all of the package first: pytester forgets what is imported within a session, and torch loads once."""
    for module in pkgutil.walk_packages(pytest_bertology.__path__, "pytest_bertology."):
        import_module(module.name)
    for name in ("datasets", "scipy.stats", "sklearn.metrics", "hypothesis.strategies"):
        import_module(name)
    pytest_bertology.load_model(checkpoint)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment of this session asks for, suites start without."""
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)  # suites run in a worker are no workers
    for option in OPTIONS:
        monkeypatch.delenv(option.variable, raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder called `tiny` with a BERT of 2 layers of 4 heads, all of which matter, and its tokenizer."""
    from tests.tiny import tiny_model

    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    model = tiny_model()
    model.model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file `reviews.csv` of 40 sentences with the labels that the tiny model gives them, but for one."""
    from tests.tiny import LABELS, says, sentences, tiny_model

    model = tiny_model()
    texts = sentences(40)
    labels = says(model.model, model.tokenizer, texts)
    labels[0] = 1 - labels[0]
    assert set(labels) == {0, 1}
    file = tmp_path_factory.mktemp("data") / "reviews.csv"
    rows = [f"{text},{LABELS[label]}" for text, label in zip(texts, labels, strict=True)]
    file.write_text("\n".join(["text,label", *rows, ""]), encoding="utf-8")
    return file


@pytest.fixture
def suite(pytester: pytest.Pytester, checkpoint: Path, data: Path) -> Suite:
    """A suite that tests the tiny model."""
    return Suite(pytester, checkpoint, data)


@pytest.fixture
def copied(checkpoint: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copy the tiny checkpoint to a folder of this name, to change it there."""
    return lambda name: Path(shutil.copytree(checkpoint, tmp_path / name))


@pytest.fixture
def edited(copied: Callable[[str], Path]) -> Callable[..., Path]:
    """Copy the tiny checkpoint and change its weights by a function of the live model."""

    def edit(change: Callable[[Any], None]) -> Path:
        import torch
        from transformers import BertForSequenceClassification

        folder = copied("edited")
        model = BertForSequenceClassification.from_pretrained(folder)
        with torch.no_grad():
            change(model)
        model.save_pretrained(folder)
        return folder

    return edit


def section(result: pytest.RunResult, test: str) -> str:
    """What the report says of one failed test or its set-up: the text below its headline."""
    lines = result.outlines
    starts = [i for i, line in enumerate(lines) if re.fullmatch(rf"_+ (ERROR at \w+ of )?{re.escape(test)} _+", line)]
    assert len(starts) == 1, result.stdout.str()
    below = lines[starts[0] + 1 :]
    end = next(i for i, line in enumerate(below) if re.match(r"(_{3,} .+ _{3,}|={3,} .+ ={3,})$", line))
    return "\n".join(below[:end])


@pytest.fixture(name="section")
def _section() -> Callable[[pytest.RunResult, str], str]:
    return section

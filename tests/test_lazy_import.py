"""What an import loads, seen from outside: `sys.modules` of a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pytest_bertology

HEAVY = (
    "torch",
    "transformers",
    "numpy",
    "scipy",
    "sklearn",
    "datasets",
    "tokenizers",
    "pyarrow",
    "hypothesis",
    "matplotlib",
)


def loaded_by(code: str) -> list[str]:
    """The heavy packages that a fresh interpreter holds after `code`."""
    script = f"{code}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    "code",
    [
        "import pytest_bertology",
        "import pytest_bertology.errors",
        "import pytest_bertology; dir(pytest_bertology)",
        "from pytest_bertology import BertologyError",
    ],
)
def test_importing_the_package_loads_nothing_heavy(code):
    assert loaded_by(code) == []


def test_using_a_name_loads_what_it_needs():
    assert loaded_by("from pytest_bertology import HeadMask, evaluate, load_model") == []
    assert loaded_by("from pytest_bertology import HeadMap, HeadScores; HeadScores([1], HeadMap([1]), 'x')") == [
        "numpy"
    ]
    assert "torch" in loaded_by("from pytest_bertology import evaluate; evaluate.__doc__")


def test_every_public_name_resolves():
    for name in pytest_bertology.__all__:
        found = getattr(pytest_bertology, name)

        assert found.__name__ == name
        assert found.__doc__


def test_public_names_are_sorted_out_once():
    assert len(set(pytest_bertology.__all__)) == len(pytest_bertology.__all__)
    assert set(pytest_bertology.__all__) <= set(dir(pytest_bertology))


def test_a_star_import_gives_the_public_names():
    names: dict[str, object] = {}

    exec("from pytest_bertology import *", names)

    assert set(pytest_bertology.__all__) <= set(names)


def test_an_unknown_name_is_an_attribute_error_that_says_so():
    with pytest.raises(AttributeError, match="module 'pytest_bertology' has no attribute 'assert_everything'"):
        _ = pytest_bertology.assert_everything

    with pytest.raises(ImportError, match="assert_everything"):
        exec("from pytest_bertology import assert_everything")

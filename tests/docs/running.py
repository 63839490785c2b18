"""Run the blocks of a page one after the other, in one folder and one namespace, and compare what they show."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from pytest_bertology import __main__, errors
from pytest_bertology.embedded import encoder
from tests.docs.blocks import README, Block

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = None

GIVEN = ("--bertology-model=./release-candidate", "--bertology-task=dev.tsv")
_FILES = ("cat", "ls", "mkdir", "cp", "mv", "rm")


class Page:
    """A page as it runs: its folder, its namespace, and what the last block printed."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.folder = pytester.path
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.output: str | None = ""
        """None of a block that is run elsewhere."""
        self.unseen: set[str] = set()
        """Test files that no command has run yet."""

    def run(self, blocks: Sequence[Block]) -> None:
        """Run all blocks; raise AssertionError, with the block's place, at the first that does not do as it says."""
        for block in blocks:
            if block.not_run is not None:
                self._pass_over(block)
                continue
            try:
                self._block(block)
            except AssertionError as error:
                raise AssertionError(f"{block}: {error}") from None
            except Exception as error:  # noqa: BLE001  # whatever a block raises, its place is told
                raise AssertionError(f"{block}: {''.join(traceback.format_exception(error))}") from None
        for name in sorted(self.unseen):
            self._pytest([name, *GIVEN], 0)

    def _pass_over(self, block: Block) -> None:
        """Leave out what a block would have shown, and the test files that it would have run."""
        self.output = None
        if block.language == "sh":
            named = {name for name in self.unseen if name in block.text}
            self.unseen -= named or self.unseen

    def _block(self, block: Block) -> None:
        if block.title and block.language in ("python", "toml", "ini", "yaml", "json"):
            parsed(block)
            path = self.folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text + "\n", encoding="utf-8")
            if path.name.startswith("test_"):
                self.unseen.add(block.title)
        elif block.language == "python":
            self._python(block)
        elif block.language == "sh":
            commands = block.text.replace("\\\n", " ").split("\n")
            commands = [command for command in commands if command.strip()]
            for number, command in enumerate(commands, 1):
                self._command(command, _status(block) if number == len(commands) else 0)
        elif block.language == "text":
            self._shown(block)
        else:
            parsed(block)

    def _python(self, block: Block) -> None:
        code = compile("\n" * block.line + block.text, str(block.page), "exec")
        raises, stream = block.says("raises"), io.StringIO()
        with redirect_stdout(stream), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pages are run with every supported transformers, which deprecates much
            try:
                exec(code, self.names)
            except Exception as error:
                if type(error).__name__ != raises:
                    raise
                print(f"{raises}: {error}")
                raises = None
        assert raises is None, f"raised no {raises}"
        self.output = stream.getvalue()

    def _command(self, command: str, expected: int) -> None:
        words = shlex.split(command, comments=True)
        with pytest.MonkeyPatch.context() as patch:
            while re.match(r"[A-Z_]+=", words[0]):
                name, _, value = words.pop(0).partition("=")
                patch.setenv(name, value)
            if words[:3] == ["python", "-m", "pytest"]:
                words[:3] = ["pytest"]
            if words[0] == "pytest":
                self._pytest(words[1:], expected)
            elif words[:3] == ["python", "-m", "pytest_bertology"]:
                stream = io.StringIO()
                with redirect_stdout(stream):
                    status = __main__.main(words[3:])
                assert status == expected, f"exit status {status} of {command}"
                self.output = stream.getvalue()
            elif words[0] == "python":
                stream = io.StringIO()
                with redirect_stdout(stream):
                    runpy.run_path(words[1], run_name="__main__")
                self.output = stream.getvalue()
            else:
                assert words[0] in _FILES, f"no test runs {words[0]!r}: say <!-- not run: reason --> before the block"
                done = subprocess.run(words, cwd=self.folder, capture_output=True, text=True, check=True)
                self.output = done.stdout

    def _pytest(self, arguments: list[str], expected: int) -> None:
        ignored = [] if any("example_suites" in word for word in arguments) else ["--ignore=example_suites"]
        with warnings.catch_warnings():
            warnings.resetwarnings()  # the session of the tests makes errors of them, and this one starts anew
            result = self.pytester.runpytest_inprocess("-p", "no:cacheprovider", *ignored, *arguments)
        self.output = result.stdout.str() + result.stderr.str()
        assert result.ret == expected, f"pytest {shlex.join(arguments)} ended with {result.ret!r}"
        assert "collected 0 items" not in self.output
        named = {Path(word).as_posix() for word in arguments if word.endswith(".py")}
        self.unseen -= named or self.unseen

    def _shown(self, block: Block) -> None:
        """What a text block shows: part of what the last block printed, with … for anything; or an error's message."""
        if block.says("excerpt") is not None or block.page == README:  # which has no comments for tests
            return
        made = block.says("message of")
        if made is not None:
            error = eval(made, {**vars(encoder), **vars(errors), **self.names})
            shown = f"{type(error).__name__}: {error}"
            assert " ".join(block.text.split()) == " ".join(shown.split()), f"the message is\n{shown}"
            return
        if self.output is not None:
            assert shows(block.text, self.output), f"not part of what was printed, which is\n{self.output}"


def _status(block: Block) -> int:
    """The exit status of its last command."""
    return 1 if block.says("fails") is not None else int(block.says("exit") or 0)


def parsed(block: Block) -> Any:
    """The content of a block, by its language's own parser; raises AssertionError where it has faults."""
    try:
        if block.language == "python":
            return ast.parse(block.text)
        if block.language == "json":
            return json.loads(block.text)
        if block.language == "toml" and tomllib is not None:
            return tomllib.loads(block.text)
        if block.language == "yaml":
            return pytest.importorskip("yaml").safe_load(block.text)
    except (SyntaxError, ValueError) as error:
        raise AssertionError(f"{block}: {error}") from None
    return None


def shows(expected: str, output: str) -> bool:
    """Whether `output` holds `expected`, in which … stands for anything; white space counts as one blank."""
    parts = re.split(r"…|\.\.\.", expected)
    pattern = ".*?".join(r"\s+".join(map(re.escape, part.split())) for part in parts)
    return re.search(pattern, output, re.DOTALL) is not None


def environment_without_settings(patch: pytest.MonkeyPatch) -> None:
    """Whatever the environment of this session asks for, pages start without."""
    for name in [*os.environ]:
        if name.startswith("BERTOLOGY_") and name not in ("BERTOLOGY_ASSETS", "BERTOLOGY_DOCS"):
            patch.delenv(name)
    for name in ("CI", "GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS"):
        patch.delenv(name, raising=False)

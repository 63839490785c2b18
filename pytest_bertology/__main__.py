"""`python -m pytest_bertology inspect MODEL`: the head map of a model, on the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pytest_bertology.errors import BertologyError
from pytest_bertology.names import KINDS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 where the model's heads can be masked, 1 where not (the reason is on standard error)."""
    options = _parser().parse_args(arguments)
    from pytest_bertology.inspection import inspect_model  # torch and transformers load only now

    try:
        found = inspect_model(
            options.model,
            kind=options.kind,
            revision=options.revision,
            device=options.device,
            config_only=options.config_only,
            trust_remote_code=options.trust_remote_code,
        )
    except PermissionError as error:
        print(f"PermissionError: {options.model} cannot be read: {error}", file=sys.stderr)
        return 1
    except BertologyError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    sys.stdout.write(found.to_json() if options.json else "\n".join(found.lines()) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pytest_bertology", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    inspect = commands.add_parser("inspect", help="print the head map of a model", description=_INSPECT)
    inspect.add_argument("model", metavar="MODEL", help="a hub name, a folder, or a config.json (random weights)")
    inspect.add_argument("--kind", choices=KINDS, help="load the model as this; default: as it was saved")
    inspect.add_argument("--revision", help="a branch, tag or commit on the hub")
    inspect.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    inspect.add_argument("--config-only", action="store_true", help="do not read (or download) the weights")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    inspect.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the model")
    return parser


_INSPECT = """\
Find the attention heads of a model by running it, prove that masking them acts, and print where they are, how many
key-value heads they share, where they are gated and whether they can be cut out. Exit status 1, with the reason, for
a model whose heads cannot be masked exactly.
"""

if __name__ == "__main__":
    sys.exit(main())

"""What the plugin adds to the start of a pytest session that does not use it: paired runs with and without it.

python benchmarks/startup.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_nothing.py").write_text("def test_nothing():\n    pass\n")
        seconds(folder, "-p", "no:bertology")
        pairs = [(seconds(folder), seconds(folder, "-p", "no:bertology")) for _ in range(rounds)]
    added = sorted(1000 * (with_it - without) for with_it, without in pairs)
    without = 1000 * statistics.median(seconds for _, seconds in pairs)
    print(f"without the plugin: {without:.0f} ms (median of {rounds})")
    print(
        f"added by the plugin: {statistics.median(added):.0f} ms (median of pairs, {added[0]:.0f} to {added[-1]:.0f})"
    )


def seconds(folder: str, *options: str) -> float:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

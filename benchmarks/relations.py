"""Which heads of a sentence encoder track which dependency relation: the table on English-EWT, and how long it takes.

    python benchmarks/relations.py [--assets ../shared/assets] [--checkpoint FOLDER] [--sentences N] [--subtypes]
                                   [--figure relations.png]

Heads, directions and offsets are chosen on the train part and judged on the development part, by default whole (3,531
and 2,001 sentences). The model is all-MiniLM-L6-v2 (the extra `embedded`) unless --checkpoint names another. Exits with
1 where fewer than three relations beat their best offset, of det, nsubj, obj, case and amod among all.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pytest_bertology import head_relations, load_embedded_model, load_model, read_conllu, save_figure
from pytest_bertology.report.relation_figure import relation_figure

WANTED = ("det", "nsubj", "obj", "case", "amod")


def main() -> int:
    """Print the table and the time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, default=Path(__file__).parents[2] / "shared" / "assets")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--sentences", type=int, help="of each part; default: all")
    parser.add_argument("--subtypes", action="store_true", help="tell nsubj and nsubj:pass apart")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    folder = options.assets / "data" / "ud_ewt"
    train = read_conllu(folder / "en_ewt-ud-train-subset.conllu")[: options.sentences]
    dev = read_conllu(folder / "en_ewt-ud-dev.conllu")[: options.sentences]
    model = load_embedded_model() if options.checkpoint is None else load_model(options.checkpoint)
    start, processor = time.perf_counter(), time.process_time()
    report = head_relations(model, dev, select=train, subtypes=options.subtypes)
    took, used = time.perf_counter() - start, time.process_time() - processor
    print(report.table())
    beating = report.significant()
    print(f"\n{took:.1f} s by the clock, {used:.1f} s of processor time, {len(train) + len(dev)} sentences")
    print("beat their offset: " + ", ".join(beating))
    if options.figure is not None:
        save_figure(relation_figure(report), options.figure)
    missing = [relation for relation in WANTED if relation not in report.relations]
    if missing or sum(relation in beating for relation in WANTED) < 3:
        print(f"fewer than three of {', '.join(WANTED)} beat their offset", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

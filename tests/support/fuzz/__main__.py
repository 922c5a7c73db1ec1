"""Fuzz all or some parsers, and print a table: ``python -m tests.support.fuzz [--inputs N] [NAME ...]``."""

import argparse
import sys
from pathlib import Path

from tests.support.fuzz.parsers import PARSERS
from tests.support.fuzz.records import RECORDS
from tests.support.fuzz.running import Outcome, fuzzed, kept, table


def main() -> int:
    """Return 1 if there was any find."""
    known = PARSERS | RECORDS
    options = argparse.ArgumentParser(prog="python -m tests.support.fuzz", description=__doc__)
    options.add_argument("names", nargs="*", help="the parsers to fuzz; all of them by default")
    options.add_argument("--inputs", type=int, default=10_000, help="how many inputs each parser gets")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument(
        "--finds", type=Path, default=Path(".fuzz_cache"), help="the folder for inputs that failed"
    )
    chosen = options.parse_args()
    if unknown := [name for name in chosen.names if name not in known]:
        options.error(f"{unknown[0]}: must be one of {', '.join(known)}")
    outcomes: dict[str, Outcome] = {}
    lines: list[str] = []
    for name in chosen.names or known:
        outcomes[name] = fuzzed(name, known[name], chosen.inputs, chosen.seed)
        found = kept(outcomes[name], name, chosen.finds)
        lines += found
        *_, row = table({name: outcomes[name]})
        print(row, *found, sep="\n", file=sys.stderr, flush=True)  # at once, because all of them take hours
    print(*table(outcomes), *lines, sep="\n")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Times one case against one peer in this process and prints one line of JSON; see run.py.

usage: python benchmarks/measure.py CASE [PEER] [--seconds S]
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys

import moptcore as mc
from cases import CASES
from harness import interleave


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("peer", nargs="?")
    parser.add_argument("--seconds", type=float, default=6.0)
    options = parser.parse_args()
    case = CASES[options.case]()
    theirs = {}
    if options.peer:
        peer = importlib.import_module(f"peers.{options.peer}")
        theirs = getattr(peer, f"ways_{case.operation}")(**case.arguments)
        ours = case.ours()
        for way in theirs.values():
            case.agree(ours, way())
    ways = {"moptcore": case.ours, **theirs}
    if case.memory is not None:
        ways["one memory pass"] = case.memory
    timings = interleave(ways, seconds=options.seconds)
    json.dump(
        {
            "case": options.case,
            "title": case.title,
            "peer": options.peer,
            "goals": dict(case.goals),
            "threads": mc.get_num_threads(),
            "median_ms": {name: timing.median for name, timing in timings.items()},
            "rounds": {name: timing.rounds for name, timing in timings.items()},
        },
        sys.stdout,
    )
    print()


if __name__ == "__main__":
    main()

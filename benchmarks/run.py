# SPDX-License-Identifier: Apache-2.0
"""Runs every Python benchmark, each in a process of its own, with one thread and then with all.

usage: python benchmarks/run.py [word ...]      for example: python benchmarks/run.py prune
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main(words: list[str]) -> None:
    for threads in sorted({1, os.cpu_count() or 1}):
        environment = {
            **os.environ,
            "MOPTCORE_NUM_THREADS": str(threads),
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": os.pathsep.join(
                [str(HERE), str(HERE / "python"), str(HERE.parent / "python")]
            ),
        }
        for script in sorted((HERE / "python").glob("bench_*.py")):
            if not words or script.stem.removeprefix("bench_") in words:
                subprocess.run([sys.executable, str(script)], check=True, env=environment)


if __name__ == "__main__":
    main(sys.argv[1:])

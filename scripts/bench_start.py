"""How long the command takes to start: ``python scripts/bench_start.py``.

Whole processes, median of some runs: ``rag-exp --help`` (to be under 0.5 s), ``rag-exp run --dry`` (under 3 s),
and a bare ``python -c pass`` beside them, as the floor.
"""

import statistics
import subprocess
import sys
import tempfile
import time

RUNS = 5
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "rag-exp --help": [sys.executable, "-m", "rag_exp.cli", "--help"],
    "rag-exp run --dry": [sys.executable, "-m", "rag_exp.cli", "run", "--dry"],
    "rag-exp run --dry -m study=quickstart": [
        sys.executable,
        "-m",
        "rag_exp.cli",
        "run",
        "--dry",
        "-m",
        "study=quickstart",
    ],
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, command in COMMANDS.items():
            times = []
            for _ in range(RUNS + 1):
                start = time.perf_counter()
                subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
                times.append(time.perf_counter() - start)
            times = times[1:]  # the first fills the disk cache
            spread = f"{min(times):.2f} to {max(times):.2f}, {RUNS} runs"
            print(f"{name:40} median {statistics.median(times):.2f} s  ({spread})")


if __name__ == "__main__":
    main()

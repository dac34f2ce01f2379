"""What the store saves: a study with it, and with every run on its own: ``python scripts/bench_store.py [overrides]``.

Both parts run the same points of ``study=quickstart`` in fresh folders, one after the other on the same machine;
the printed ratio is total wall time without the store over that with it (to be at least 3).
Shortened by default (fewer steps everywhere, the same graph of steps); ``--full`` runs the study as it is.
"""

import subprocess
import sys
import tempfile
import time

SHORT = ["training.warmup.steps=40", "training.steps=15", "evaluation.questions=100"]


def run(overrides: list[str]) -> float:
    """Seconds of the whole study in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "rag_exp.cli", "run", "-m", "study=quickstart", *overrides]
        start = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, stderr=subprocess.DEVNULL)
        return time.perf_counter() - start


def main() -> None:
    given = sys.argv[1:]
    full = "--full" in given
    overrides = [o for o in given if o != "--full"] + ([] if full else SHORT)
    shared = run(overrides)
    print(f"with the store      {shared:8.1f} s", flush=True)
    alone = run([*overrides, "paths.reuse=false"])
    print(f"each run on its own {alone:8.1f} s")
    print(f"ratio               {alone / shared:8.2f}")


if __name__ == "__main__":
    main()

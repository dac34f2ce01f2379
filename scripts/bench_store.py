"""What the store saves: a study with it, and with every run on its own: ``python scripts/bench_store.py [overrides]``.

Both parts run the same points of ``study=quickstart`` in fresh folders, one after the other on the same machine.
Printed are wall time and the CPU time of all processes (which other work on the machine disturbs less), and the
ratio of each: without the store over with it (to be at least 3).
By default all runs train a quarter of their steps, which is to the store's disadvantage: there is less to share.
``--full`` runs the study as it is.
"""

import resource
import subprocess
import sys
import tempfile
import time

SHORT = ["training.warmup.steps=450", "training.steps=75"]


def run(overrides: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of the whole study in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "rag_exp.cli", "run", "-m", "study=quickstart", *overrides]
        start, start_cpu = time.perf_counter(), cpu()
        subprocess.run(command, cwd=folder, check=True, stderr=subprocess.DEVNULL)
        return time.perf_counter() - start, cpu() - start_cpu


def cpu() -> float:
    """CPU seconds of all processes that have ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    given = sys.argv[1:]
    full = "--full" in given
    overrides = [o for o in given if o != "--full"] + ([] if full else SHORT)
    shared, shared_cpu = run(overrides)
    print(f"with the store      {shared:8.1f} s, CPU {shared_cpu:8.1f} s", flush=True)
    alone, alone_cpu = run([*overrides, "paths.reuse=false"])
    print(f"each run on its own {alone:8.1f} s, CPU {alone_cpu:8.1f} s")
    print(f"ratio               {alone / shared:8.2f}    CPU {alone_cpu / shared_cpu:8.2f}")


if __name__ == "__main__":
    main()

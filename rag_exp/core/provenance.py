"""What made a record: the versions of the packages that can change a number, and the commit of the source."""

from __future__ import annotations

import subprocess
from functools import lru_cache
from pathlib import Path

PACKAGES = (  # those whose version can change a number
    "rag-exp",
    "torch",
    "pytorch-lightning",
    "transformers",
    "tokenizers",
    "faiss-cpu",
    "bm25s",
    "numpy",
    "scipy",
    "pyarrow",
    "sentence-transformers",
)


@lru_cache(maxsize=1)
def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that can change a number."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {"python": platform.python_version(), "platform": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


@lru_cache(maxsize=1)
def commit() -> str | None:
    """The git commit of rag_exp's own source, ``+changes`` where the tree is not clean; None outside a checkout."""
    here = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    top = git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != here:
        return None  # installed from a wheel inside somebody else's repository
    head = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--", "rag_exp", "configs")
    return f"{head}+changes" if head and changed else head

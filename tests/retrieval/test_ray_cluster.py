"""Two real Ray nodes, one of which dies in mid-search."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import rag_exp
from rag_exp.retrieval.indexes import IVF

ROOT = Path(rag_exp.__file__).parent.parent
SCRIPT = ROOT / "scripts" / "ray_cluster.sh"

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'rag-exp[ray]'"),
    pytest.mark.skipif(sys.platform != "linux", reason="two Ray nodes on one machine need Linux"),
]


@pytest.fixture
def cluster(tmp_path: Path):
    """A function that calls the script for a cluster of this test's own."""
    own = {"RAG_EXP_RAY_CLUSTER": f"rag_exp_test_{os.getpid()}", "TMPDIR": "/tmp"}  # sockets need short paths
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    python_path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])

    def call(*arguments: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, **own, "PATH": path, "PYTHONPATH": python_path}
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            environment.pop(name, None)
        command = ["bash", str(SCRIPT), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)

    yield call
    call("stop")


def test_a_node_that_dies_in_mid_search_loses_no_answer(cluster, shard_files):
    vectors = shard_files.clustered(800)
    shard_files.write(IVF(nlist=8, nprobe=3), vectors, 4)
    np.save(shard_files.folder / "queries.npy", shard_files.clustered(30, seed=1))
    (shard_files.folder / "size.json").write_text(json.dumps(len(vectors)))
    started = cluster("start")
    assert started.returncode == 0, started.stderr
    driver = Path(__file__).with_name("two_nodes.py")
    ran = cluster("run", sys.executable, str(driver), str(shard_files.folder), str(SCRIPT))
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    assert len(set(told["before"])) == 2, "both nodes held shards"
    assert len(set(told["after"])) == 1, "the node that is left holds all of them"
    assert set(told["after"]) < set(told["before"])
    assert told["same_ids"]
    assert told["same_scores"]
    assert "is opened again from the store" in ran.stderr
    assert re.search(r"shard [1-4] of 4 \(passages \d+ to \d+\) died", ran.stderr)
    assert cluster("stop").returncode == 0
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f"rag_exp_test_{os.getpid()}" not in left, "nothing of the cluster runs on"


def test_a_cluster_that_does_not_run_says_how_to_start_it(cluster):
    ran = cluster("run", "true")
    assert ran.returncode == 1
    assert "does not run. Start it" in ran.stderr

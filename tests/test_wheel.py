"""A wheel built from the repository works by itself, its configs inside, and finds a user's own."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with nothing but the unpacked wheel of rag_exp in it."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed, place, *words):
    # -P and the path in front: neither the checkout nor its editable install can be what is found.
    code = (
        "import sys, rag_exp; from rag_exp.cli import main; print(rag_exp.__file__, file=sys.stderr); sys.exit(main())"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *words], cwd=place, env=environment, capture_output=True, text=True
    )


def test_the_configs_are_inside_and_the_checkout_is_not_used(installed, place):
    done = run(installed, place, "run", "--dry", "generator.size=s1")
    assert done.returncode == 0, done.stderr
    assert str(installed) in done.stderr
    assert "generator.size = s1" in done.stdout
    assert (installed / "rag_exp" / "configs" / "study" / "quickstart.yaml").is_file()


def test_own_configs_of_the_working_folder(installed, place):
    (place / "configs" / "study").mkdir(parents=True)
    (place / "configs" / "study" / "mine.yaml").write_text("name: mine\nbase: [debug=tiny]\ngrids: [{seed: [0, 1]}]\n")
    done = run(installed, place, "status", "study=mine")
    assert "2 missing, 2 in the plan" in done.stdout, done.stderr


def test_it_carries_no_tests_and_no_results(installed):
    names = {p.name for p in installed.iterdir()}
    assert {n for n in names if not n.endswith(".dist-info")} == {"rag_exp"}

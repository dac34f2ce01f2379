"""The two commands say what to do when something is missing."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture
def tools(tmp_path):
    """A folder for PATH that holds the shell's own tools and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "df", "awk", "cat", "cksum", "rm"):
        (folder / name).symlink_to(shutil.which(name))
    return folder


def shell(tools, place, text):
    environment = {"PATH": str(tools), "HOME": str(place)}
    command = [str(tools / "bash"), "-c", f". {SCRIPTS}/environment.sh; {text}"]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)


def program(folder, name, text):
    (folder / name).write_text(f"#!{shutil.which('bash')}\n{text}\n")
    (folder / name).chmod(0o755)


def test_without_a_fitting_python(tools, tmp_path):
    done = shell(tools, tmp_path, "find_python")
    assert done.returncode != 0
    assert "needs Python 3.11" in done.stderr
    assert "apt-get install" in done.stderr
    program(tools, "python3", "exit 1")  # one that is there but too old
    assert shell(tools, tmp_path, "find_python").returncode != 0


def test_a_fitting_python_is_found(tools, tmp_path):
    program(tools, "python3", "exit 0")
    assert shell(tools, tmp_path, "find_python").stdout == "python3"
    program(tools, "mine", "exit 0")
    assert shell(tools, tmp_path, "PYTHON=mine find_python").stdout == "mine"


def test_without_room_on_the_disk(tools, tmp_path):
    (tools / "df").unlink()
    program(tools, "df", "echo head; echo 'disk 1 1 1000000 1% /'")
    done = shell(tools, tmp_path, "enough_disk")
    assert done.returncode != 0
    assert "Only 1000 MB are free" in done.stderr


def test_without_venv(tools, tmp_path):
    program(tools, "python3", '[ "$1" = -c ] && exit 0; echo "No module named venv" >&2; exit 1')
    for name in ("pyproject.toml", "scripts"):
        os.symlink(SCRIPTS.parent / name, tmp_path / name)
    done = shell(tools, tmp_path, "prepare_environment ''")
    assert done.returncode != 0
    assert "python3-venv" in done.stderr
    assert not (tmp_path / ".venv" / "installed").exists()


@pytest.mark.parametrize("name", ["quickstart.sh", "test.sh", "environment.sh"])
def test_syntax(name):
    subprocess.run(["bash", "-n", str(SCRIPTS / name)], check=True)

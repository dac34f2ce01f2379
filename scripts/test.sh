#!/usr/bin/env bash
# Installs rag_exp with what its tests need into .venv and runs the whole suite, file by file in as many processes as
# there are processors (at most four). Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
prepare_environment "[test]"
ruff check .
ruff format --check .
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # of each process
exec python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile "$@"

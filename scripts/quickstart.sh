#!/usr/bin/env bash
# Installs rag_exp into .venv, runs the quickstart study, fits its laws and writes its report.
# Issued again, it goes on where it stopped; when all is done it takes seconds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
prepare_environment "[joblib]"
# One process a core (at most four), each with one thread: small models gain little from a second one.
cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
rag-exp run -m study=quickstart trainer.threads=1 hydra/launcher=joblib hydra.launcher.n_jobs=$((cores < 4 ? cores : 4)) "$@"
rag-exp fit study=quickstart "$@"
rag-exp report study=quickstart "$@"

#!/usr/bin/env bash
# Installs rag_exp into .venv, runs the quickstart study, fits its laws and writes its report.
# Issued again, it goes on where it stopped; when all is done it takes seconds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
prepare_environment ""
rag-exp run -m study=quickstart "$@"
rag-exp fit study=quickstart "$@"
rag-exp report study=quickstart "$@"

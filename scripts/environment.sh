# Sourced by quickstart.sh and test.sh: makes .venv and installs rag_exp into it, or says what is missing.
# prepare_environment EXTRAS   e.g. prepare_environment "" or prepare_environment "[test]"

say() { printf '%s\n' "$*" >&2; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            printf '%s' "$candidate"
            return 0
        fi
    done
    say "rag_exp needs Python 3.11, 3.12 or 3.13, and none was found on the PATH."
    say "Install one (for example: apt-get install python3.11 python3.11-venv), or name it: PYTHON=/path/to/python bash $0"
    return 1
}

enough_disk() {
    local free_kb
    free_kb=$(df -Pk . | awk 'NR==2 {print $4}')
    if [ "$free_kb" -lt 4000000 ]; then
        say "Only $((free_kb / 1000)) MB are free on the disk that holds $PWD; the packages and results need about 4000 MB."
        say "Free some space, or clone the repository onto a larger disk."
        return 1
    fi
}

prepare_environment() {
    local extras="$1" python stamp wanted
    wanted="$(cat pyproject.toml scripts/constraints.txt | cksum) $PWD"
    stamp=".venv/installed${extras//[^a-z]/}"
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
        . .venv/bin/activate
        return 0
    fi
    python=$(find_python) || return 1
    enough_disk || return 1
    if [ ! -x .venv/bin/python ]; then
        if ! "$python" -m venv .venv 2>/tmp/rag_exp_venv.$$; then
            cat /tmp/rag_exp_venv.$$ >&2
            rm -rf .venv /tmp/rag_exp_venv.$$
            say "$python cannot make a virtual environment (venv or pip is missing)."
            say "Install it (for example: apt-get install python3-venv python3-pip) and issue the command again."
            return 1
        fi
        rm -f /tmp/rag_exp_venv.$$
    fi
    . .venv/bin/activate
    if ! python -m pip --version >/dev/null 2>&1; then
        say "There is no pip in .venv. Install it (for example: apt-get install python3-pip python3-venv), delete .venv, try again."
        return 1
    fi
    say "Installing rag_exp$extras into .venv (a few minutes the first time) ..."
    if ! python -m pip install --quiet --disable-pip-version-check -c scripts/constraints.txt -e ".$extras"; then
        say "The installation failed; the reason stands above. Is the package index reachable? Is the disk full (df -h .)?"
        return 1
    fi
    printf '%s' "$wanted" >"$stamp"
}

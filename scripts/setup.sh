#!/usr/bin/env bash
# Makes .venv and installs this project into it, editable. Changes nothing where nothing changed.
#
#   scripts/setup.sh [EXTRA]      EXTRA is a name from [project.optional-dependencies], for example dev
#
# $PYTHON names the interpreter to use; otherwise the first of python3, python3.14 … python3.11 that is new enough.
# Exit codes: 0 done; 1 something is missing, and the message says what to type.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
extra=${1:-}

say() { printf 'setup: %s\n' "$*" >&2; }
fail() {
    printf 'error: %s\n\nhint: %s\n' "$1" "$2" >&2
    exit 1
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# Prints the interpreter behind a name, and for that of a virtual environment the one behind it: $venv may be on PATH,
# and is about to be removed.
resolve_python() { "$1" -c 'import sys; print(getattr(sys, "_base_executable", "") or sys.executable)'; }

find_python() {
    local candidate
    if [[ -n ${PYTHON:-} ]]; then
        is_new_enough "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.11 or newer" \
            "unset PYTHON, or let it name a newer interpreter"
        resolve_python "$PYTHON"
        return
    fi
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        if is_new_enough "$candidate"; then
            resolve_python "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer was found (looked for python3, python3.14 … python3.11)" "install one, then repeat:
    Debian 12, Ubuntu 24.04 or newer:  apt-get install python3 python3-venv
    Ubuntu 22.04:                      apt-get install python3.11 python3.11-venv
    an interpreter that is not on PATH:  export PYTHON=/path/to/python3.12"
}

# Debian and Ubuntu ship the interpreter without what `python -m venv` needs.
require_venv_module() {
    local python=$1 package
    "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 && return
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [[ $python != /usr/bin/* ]] || ! command -v apt-get >/dev/null; then
        fail "$python cannot make virtual environments: its module venv or ensurepip is missing" \
            "install your system's package for it, or name another interpreter: export PYTHON=/path/to/python3"
    fi
    if ((EUID != 0)); then
        fail "$python cannot make virtual environments: the package $package is not installed" \
            "sudo apt-get update && sudo apt-get install -y $package"
    fi
    say "installing $package, which making .venv needs"
    "$root/scripts/apt-install.sh" "$package" || fail "$package could not be installed" \
        "apt-get update && apt-get install -y $package"
}

# What an installation depends on: the requirements, the place (scripts in .venv hold its path), the interpreter.
compute_stamp() {
    "$venv/bin/python" - "$root" <<'PYTHON'
import hashlib, pathlib, sys
root = pathlib.Path(sys.argv[1])
print(hashlib.sha256((root / "pyproject.toml").read_bytes()).hexdigest(), root, sys.version.split()[0], sep="\n")
PYTHON
}

# The stamp is written last of all, so a half-made .venv has none. What has extras serves a request without.
is_installed() {
    local stamp=$1 file
    for file in "$venv"/.installed-*; do
        if [[ -z $extra || $file == "$venv/.installed-$extra" ]] && [[ -f $file && $(<"$file") == "$stamp" ]]; then
            return 0
        fi
    done
    return 1
}

is_venv_usable() {
    is_new_enough "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1 &&
        grep -qsF "$venv/bin/python" "$venv/bin/pip"
}

main() {
    local python stamp
    # Two makes at once take turns; the lock is on the folder itself and leaves no file behind.
    if command -v flock >/dev/null; then
        exec 9<"$root"
        flock 9
    fi

    if [[ -x $venv/bin/reprobox ]] && stamp=$(compute_stamp 2>/dev/null) && is_installed "$stamp"; then
        say ".venv is up to date"
        return
    fi

    if ! is_venv_usable; then
        python=$(find_python)
        require_venv_module "$python"
        if [[ -e $venv || -L $venv ]]; then
            say "removing .venv, which is unfinished, from another place or without its Python"
            rm -rf -- "$venv"
        fi
        say "making .venv with $("$python" --version 2>&1) ($python)"
        "$python" -m venv "$venv" || fail "$python could not make .venv (its own words are above)" \
            "name another interpreter: export PYTHON=/path/to/python3"
    fi

    say "installing reprobox${extra:+ with its $extra tools} into .venv (a minute or two the first time)"
    rm -f -- "$venv"/.installed-*
    PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 "$venv/bin/python" -m pip install -qq --no-input \
        --editable "$root${extra:+[$extra]}" ||
        fail "pip could not install reprobox into .venv (its own words are above)" \
            "if the package index was unreachable, repeat when it answers"
    stamp=$(compute_stamp)
    printf '%s\n' "$stamp" >"$venv/.installed-$extra"
    say "done"
}

main

#!/usr/bin/env bash
# The fast tests with one interpreter, in an environment of their own that is removed afterwards.
# Usage: tests/matrix.sh INTERPRETER [CONSTRAINTS]; a file of constraints fixes versions, as `pip install -c` does.
# ruff and mypy are left to `make test`: what they say depends on the stubs of one version.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
interpreter=$(command -v "$1") || { echo "no $1: name another interpreter, such as OLDEST=python3.11" >&2; exit 2; }
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
export CI=true OMP_NUM_THREADS=1
"$interpreter" -m venv "$room/venv"
"$room/venv/bin/pip" install --quiet --disable-pip-version-check ${2:+--constraint "$2"} --editable '.[test]'
"$room/venv/bin/python" -c '
import platform, numpy, sqlite3, torch, torchvision
print(f"| {platform.python_version()} | {torch.__version__} | {torchvision.__version__} | {numpy.__version__} | {sqlite3.sqlite_version} |")'
"$room/venv/bin/python" -m pytest -q -n 2 -m "not slow" -p no:cacheprovider

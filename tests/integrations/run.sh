#!/usr/bin/env bash
# The adapters and the blocks of docs/scale.md with the libraries themselves, in an environment of their own that is removed afterwards.
# Usage: tests/integrations/run.sh [INTERPRETER]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
export OMP_NUM_THREADS=1
"${1:-python3}" -m venv "$room/venv"
"$room/venv/bin/pip" install --quiet --disable-pip-version-check --editable . --requirement tests/integrations/requirements.txt
# Warnings of the other libraries are not ours to mend.
"$room/venv/bin/python" -m pytest -q -p no:cacheprovider -W default tests/integrations
"$room/venv/bin/pip" uninstall --quiet --yes albumentations albucore
"$room/venv/bin/pip" install --quiet --disable-pip-version-check albumentationsx==2.5.1
"$room/venv/bin/python" -m pytest -q -p no:cacheprovider -W default tests/integrations/test_albumentations.py

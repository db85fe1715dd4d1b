#!/usr/bin/env bash
# The files in dist/ as a stranger gets them: the sdist is the last commit and builds the same wheel; README and pages run with the
# wheel, from an empty folder, in an environment of their own that is removed afterwards.
# Usage: tests/release.sh INTERPRETER, after `make build`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
interpreter=$(command -v "$1") || { echo "no $1: name another interpreter, such as NEWEST=python3.12" >&2; exit 2; }
shopt -s nullglob
wheels=("$PWD"/dist/*.whl) sdists=("$PWD"/dist/*.tar.gz)
[[ ${#wheels[@]} == 1 && ${#sdists[@]} == 1 ]] || { echo "dist/ must hold one wheel and one sdist: make build" >&2; exit 2; }
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
export OMP_NUM_THREADS=1 PIP_DISABLE_PIP_VERSION_CHECK=1
unset PYTHONPATH
mkdir "$room"/{commit,sdist,wheels,empty}
"$interpreter" -m venv "$room/venv"
python=$room/venv/bin/python

same() { diff -r "$@" || { echo "$1 and $2 differ, see above" >&2; exit 1; }; }

git archive HEAD | tar -x -C "$room/commit"
tar -xzf "${sdists[0]}" -C "$room/sdist" --strip-components=1
# setup.cfg gets a section in every sdist.
same -x '.*' -x PKG-INFO -x '*.egg-info' -x setup.cfg "$room/commit" "$room/sdist"
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$room/wheels" "$room/commit"
"$python" -m zipfile -e "${wheels[0]}" "$room/wheels/from_sdist"
"$python" -m zipfile -e "$room"/wheels/*.whl "$room/wheels/from_commit"
same "$room/wheels/from_sdist" "$room/wheels/from_commit"

cd "$room/empty"
pages="$room/sdist/tests/test_readme.py::test_python_blocks_run_in_order"
run_pages() { "$python" -m pytest -q -W error -p no:cacheprovider -c "$room/pytest.ini" --noconftest "$@"; }
echo "[pytest]" > "$room/pytest.ini"
"$python" -m pip install --quiet "${wheels[0]}"
"$python" -m pip check
"$python" -W error -m cutswap_transforms --version
"$python" "$room/sdist/examples/make_samples.py" parts --count 1
"$python" -W error -m cutswap_transforms preview parts
"$python" -m pip install --quiet pytest
run_pages "$pages[README.md]"
"$python" -m pip install --quiet "${wheels[0]}[all]"
"$python" -m pip check
run_pages "$pages"

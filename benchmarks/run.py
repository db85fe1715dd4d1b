"""Run every benchmark, then compare the figures with their targets.

    python benchmarks/run.py [--out FOLDER] [--quick] [--only SCRIPT ...] [--quote FILE ...]

Each script runs in its own process. The folder gets a JSON file with the environment and a plot for each script, and
`report.md` with all tables. This takes less than ten minutes on two cores. The exit status says whether all scripts ran,
not whether the targets were met. `--quote` puts the table of targets, with machine and date, between the two marks for it
in a Markdown file. With `--only`, the JSON of an earlier run is used for the scripts that are left out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from _report import Result, describe, parser
from targets import judge, missed, verdict_table

MARK = "<!-- figures of benchmarks/run.py -->"
SCRIPTS = ("stages", "throughput", "layercam", "loader", "device", "scaling")


def run_script(name: str, arguments: Sequence[str]) -> tuple[bool, float]:
    """Whether it succeeded, and its seconds. Its output is shown immediately."""
    begin = time.monotonic()
    print(f"\n==== {name}", flush=True)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(f"{name}.py")), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    return done.returncode == 0, time.monotonic() - begin


def verdicts(results: dict[str, Result]) -> str:
    """Machine, dates and the table of targets as Markdown."""
    judged = judge(results)
    kept = sum(v.met is True for v in judged if not v.target.sought)
    unknown = sum(v.met is None for v in judged)
    first, *others = (r.environment for r in results.values())
    goals = sum(v.met is False for v in judged if v.target.sought)
    counts = f"{kept} met, {len(missed(judged))} not met, {goals} sought and not reached, {unknown} not measured."
    parts = [describe(first), verdict_table(judged), counts]
    if any(env["commit"] != first["commit"] for env in others):
        runs = "; ".join(f"{n}: {r.environment['date']}, commit {r.environment['commit']}" for n, r in results.items())
        parts.append(f"Not of one commit: {runs}.")
    return "\n\n".join(parts)


def report(results: dict[str, Result]) -> str:
    """All tables, then the verdicts."""
    tables = [r.markdown() for r in results.values()]
    return "\n\n".join(["# Benchmarks", *tables, "## What must come out", verdicts(results)]) + "\n"


def quote(text: str, path: Path) -> None:
    """Put the text between the marks of a Markdown file."""
    parts = path.read_text(encoding="utf-8").split(MARK)
    if len(parts) != 3:
        raise ValueError(f"{path.name} must hold the mark {MARK} twice, got {len(parts) - 1}")
    path.write_text(MARK.join([parts[0], f"\n{text}\n", parts[2]]), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    found = parser(__doc__)
    found.add_argument("--only", nargs="+", choices=SCRIPTS, default=SCRIPTS, metavar="SCRIPT", help=", ".join(SCRIPTS))
    found.add_argument("--quote", nargs="+", type=Path, default=[], metavar="FILE", help="Markdown files to write into")
    args = found.parse_args(argv)
    arguments = ["--out", str(args.out), *["--quick"] * args.quick, *(["--rounds", str(args.rounds)] if args.rounds else [])]
    begin, failed = time.monotonic(), []
    for name in args.only:
        ran, seconds = run_script(name, arguments)
        print(f"\n{name}: {seconds:.0f} s", flush=True)
        if not ran:
            failed.append(name)
            (args.out / f"{name}.json").unlink(missing_ok=True)  # so that no old result counts for this run
    paths = {name: args.out / f"{name}.json" for name in SCRIPTS}
    results = {name: Result.from_json(p.read_text(encoding="utf-8")) for name, p in paths.items() if p.exists()}
    if not results:
        print("nothing was measured")
        return 1
    (args.out / "report.md").write_text(report(results), encoding="utf-8")
    print("\n==== What must come out\n\n" + verdicts(results))
    print(f"\n{time.monotonic() - begin:.0f} s in all" + (f"; failed: {', '.join(failed)}" if failed else ""))
    for path in args.quote:
        quote(verdicts(results), path)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""A detector of defects from a folder of good parts.

    python examples/detect.py fit DATA --out RUN                     # learn from normal images
    python examples/detect.py score RUN IMAGE_OR_FOLDER... --out OUT # score new ones
    python examples/detect.py evaluate RUN DATA                      # with a test set of known defects
    python examples/detect.py compare DATA --out GRID                # many fits, in pairs

`detect.py COMMAND --help` lists the options.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from data import add_arguments
from detector.options import add_false_alarms, add_fit, add_progress, explained_errors


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    fit = commands.add_parser("fit", help="learn a detector from normal images", allow_abbrev=False)
    add_arguments(fit, tested=False)
    fit.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the detector")
    add_false_alarms(fit)
    add_fit(fit)
    score = commands.add_parser("score", help="score new images and draw heat maps", allow_abbrev=False)
    add_run(score)
    score.add_argument("images", type=Path, nargs="+", metavar="IMAGE_OR_FOLDER")
    score.add_argument("--out", type=Path, required=True, help="a new folder for scores.csv, summary.png, heatmaps")
    score.add_argument("--heat-maps", choices=("all", "defects", "none"), default="all", help="which are drawn (all)")
    score.add_argument("--sort", action="store_true", help="the highest score first")
    score.add_argument("--white", type=float, help="value of white in 16-bit and float images (default: as for fitting)")
    add_false_alarms(score)
    add_progress(score)
    evaluate = commands.add_parser("evaluate", help="measure a detector on a test set", allow_abbrev=False)
    add_run(evaluate)
    add_arguments(evaluate)
    add_false_alarms(evaluate)
    compare = commands.add_parser("compare", help="fit and measure a grid of detectors", allow_abbrev=False)
    from detector.compare_command import add_compare

    add_compare(compare)
    return parser


def add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder that `fit` has made")
    parser.add_argument("--features", metavar="MODULE:FACTORY", help="the net, where `fit` was given a module:factory")


def main(argv: Sequence[str] | None = None) -> int:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    parser = make_parser()
    args, others = parser.parse_known_args(argv)
    if others and args.command != "compare":
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    args.others = others
    args.command_line = list(sys.argv[1:] if argv is None else argv)
    with explained_errors():
        return run(args)


def run(args: argparse.Namespace) -> int:
    if args.command == "fit":
        from detector.fit_command import run_fit

        return run_fit(args)
    if args.command == "score":
        from detector.score_command import run_score

        return run_score(args)
    if args.command == "evaluate":
        args.out = args.run  # the toy set is drawn beside it
        from detector.evaluate_command import run_evaluate

        return run_evaluate(args)
    from detector.compare_command import run_compare

    return run_compare(args)


if __name__ == "__main__":
    raise SystemExit(main())

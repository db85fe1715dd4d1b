"""Command line: `python -m cutswap_transforms preview|precompute|export`; see `cutswap_transforms.shell`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from . import __version__
from .shell.arguments import add_export, add_precompute, add_preview
from .shell.messages import STATUS, UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status, see `STATUS`."""
    parser = argparse.ArgumentParser(
        prog="python -m cutswap_transforms", description="Saliency-guided patch swaps.", epilog=STATUS
    )
    parser.add_argument("--version", action="version", version=f"cutswap_transforms {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for add in (add_preview, add_precompute, add_export):
        add(commands)
    args = parser.parse_args(argv)
    try:
        importlib.import_module(f".shell.{args.command}", __package__).run(args)  # imports torch, which takes seconds
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except MemoryError:
        print("error: out of memory: lower --size first, then --cell, --limit or --batch-size", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(f"stopped: {str(stop) or 'nothing was written'}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

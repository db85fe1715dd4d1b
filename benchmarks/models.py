"""Which of torchvision's classification models give levels: a table of the layers that are found, or the error message.

    python benchmarks/models.py [--most 200] [NAME ...]

The weights are random, so nothing is downloaded. Models with more than `--most` million parameters are left out. Tracing would
take minutes for some models, so this script uses private functions to skip it.
"""

from __future__ import annotations

import argparse
import gc
import time

import torchvision

from cutswap_transforms.saliency.traced import nets
from cutswap_transforms.saliency.traced.probe import find_levels, run_probe
from cutswap_transforms.saliency.traced.trace import example


def millions(name: str) -> float:
    """Parameters, from the metadata of torchvision's weights."""
    return float(torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]) / 1e6


def outcome(name: str) -> str:
    """The levels of a model with the sides of their maps, or the error message."""
    net = nets._frozen(nets._load(name, None))
    try:
        probe = run_probe(net, name, example(1, nets.CROP), None)
        return ", ".join(f"{layer} ({probe.last[layer].side})" for layer in find_levels(probe, None))
    except ValueError as error:
        return str(error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="all where none is named")
    parser.add_argument("--most", type=float, default=200, help="million parameters (default: 200)")
    args = parser.parse_args()
    print("| model | million parameters | levels | seconds |\n|---|---|---|---|")
    for name in args.names or torchvision.models.list_models(module=torchvision.models):
        begin = time.perf_counter()
        found = outcome(name) if millions(name) <= args.most else "left out"
        gc.collect()
        print(f"| {name} | {millions(name):.1f} | {found} | {time.perf_counter() - begin:.0f} |", flush=True)


if __name__ == "__main__":
    main()

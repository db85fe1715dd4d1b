"""Which of torchvision's classification models give levels: a table of the layers that are found, or of the sentence.

    python benchmarks/models.py [--most 200] [NAME ...]

The weights are random, so nothing is fetched. Models of more than `--most` million parameters are left out.
"""

from __future__ import annotations

import argparse
import gc
import time
import warnings

import torchvision

from cutswap_transforms import LayerCAMExtractor


def millions(name: str) -> float:
    """Parameters, as torchvision's weights of this model tell."""
    return float(torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]) / 1e6


def outcome(name: str) -> str:
    """The levels of a model, with how it runs where that is not as a trace of a whole batch, or the sentence of the error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            cam = LayerCAMExtractor(name, weights=None)
        except (TypeError, ValueError) as error:
            return str(error)
    warned = next((f" ({w.message})" for w in caught if "cannot be traced" in str(w.message)), "")
    return ", ".join(cam.layers) + warned


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

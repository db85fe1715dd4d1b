"""python -m explorer, from the folder `examples`: the explorer in the browser."""

from __future__ import annotations

import argparse

from .server import HOST, serve


def main() -> None:
    parser = argparse.ArgumentParser(prog="explorer", description="See and tune negatives of your own images in the browser.")
    parser.add_argument("--port", type=int, default=7860, help="of the loopback interface (default 7860)")
    port = parser.parse_args().port
    print(f"The explorer starts at http://{HOST}:{port}. Press Ctrl+C to end it.", flush=True)
    serve(port)


if __name__ == "__main__":
    main()

"""python -m explorer, from the folder `examples`: the explorer in the browser."""

from __future__ import annotations

import argparse

from .server import serve


def main() -> None:
    parser = argparse.ArgumentParser(prog="explorer", description="See and tune negatives of your own images in the browser.")
    parser.add_argument("--port", type=int, default=7860, help="of the loopback interface (default 7860; 0: any that is free)")
    port = parser.parse_args().port
    try:
        serve(port)
    except (OSError, OverflowError) as error:
        parser.error(f"`--port` {port} could not be opened ({error}); name another")
    except KeyboardInterrupt:
        print("The explorer has ended.")


if __name__ == "__main__":
    main()

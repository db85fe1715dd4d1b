"""The command line: `python -m cutswap_transforms COMMAND`. Each command is a module with `add` (its arguments) and `run`."""

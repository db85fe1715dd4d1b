"""The command line: `python -m cutswap_transforms COMMAND`. Each command is a file with `add`, its arguments, and `run`."""

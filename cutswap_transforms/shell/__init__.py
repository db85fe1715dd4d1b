"""The command line: `python -m cutswap_transforms COMMAND`. The `run` of a command is in a module of its name.

The arguments are in `arguments.py`, which imports no torch, so that help, version and mistakes take no seconds.
"""

"""Which share of the work is this process's: its rank among the processes that were started together."""

from __future__ import annotations

import os

import torch

# Names of the rank, of the number of ranks, and of the program that sets both; the first pair that is set counts.
_VARIABLES = (("RANK", "WORLD_SIZE", "torchrun"), ("SLURM_PROCID", "SLURM_NTASKS", "srun"))


def rank_and_world() -> tuple[int, int]:
    """Rank and world size, from the process group, torchrun's variables or SLURM's; (0, 1) without any.

    Raises:
        ValueError: variables that are no rank below a world size.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    for rank_name, world_name, starter in _VARIABLES:
        rank, world = os.environ.get(rank_name), os.environ.get(world_name)
        if rank is None or world is None:  # one alone does not define a share
            continue
        if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
            raise ValueError(
                f"`{rank_name}` must be below `{world_name}`, both integers, got {rank!r} and {world!r}; unset them without "
                f"{starter}"
            )
        return int(rank), int(world)
    return 0, 1

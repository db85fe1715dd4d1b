"""Storage of regions: in memory, in folders, and filled before training."""

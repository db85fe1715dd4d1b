"""Regions that are kept: in memory, in folders, and filled before training."""

"""The processes of a run. Every helper degrades to one process, so callers need no ``if``."""

import os


def rank() -> int:
    """Global rank of this process: picks its share of the data."""
    return int(os.environ.get("RANK", 0))


def local_rank() -> int:
    """Rank on this machine: picks its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def world_size() -> int:
    """Number of processes over all machines."""
    return int(os.environ.get("WORLD_SIZE", 1))

"""Every random stream has a seed of its own, derived from the run's seed, the step and what it is for."""

import hashlib


def random_state(seed: int, step: int, purpose: str) -> int:
    """A 63-bit seed, the same in every process."""
    digest = hashlib.sha256(f"{seed}/{step}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1

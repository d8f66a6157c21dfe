"""Seeds of random streams, derived from the run's seed, the step and the purpose."""

import hashlib


def random_state(seed: int, step: int, purpose: str) -> int:
    """A 63-bit seed for one purpose in one step, the same in every process."""
    digest = hashlib.sha256(f"{seed}/{step}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1

"""Independent random streams named by (seed, purpose).

Every draw in rsl names what it is for, so that adding a draw never shifts another one and no seed is special:
0 is a seed like any other. Streams are NumPy's PCG64, hence the same on every machine and device.
"""

import hashlib

import numpy as np


def generator(seed: int, purpose: str) -> np.random.Generator:
    """Return the generator of one purpose under one seed.

    Args:
        seed: any integer, of any size or sign.
        purpose: what the stream is for, e.g. ``"weights/h1->h2"``.

    Returns:
        A fresh generator; equal arguments give equal streams, different ones independent streams (the state is
        a SHA-256 of both).
    """
    digest = hashlib.sha256(f"{int(seed)}/{purpose}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))

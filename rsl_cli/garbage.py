"""Python's search for cycles of objects nobody needs, where there are none to be found. It imports nothing heavy."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unswept(*, for_good: bool = False) -> Iterator[None]:
    """Make many small things without Python's looking through all of them for cycles again and again.

    Args:
        for_good: whether all that there is by then lasts as long as the process, as modules do: it is never looked
            through, so that copies of the process share it, too.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if for_good:
            gc.freeze()
        if was:
            gc.enable()

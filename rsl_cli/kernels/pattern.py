"""Where the non-zeros of a sparse matrix are: index arrays, made once per lift and shared by every product."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsl_cli.kernels.stencil import POINT, Stencil


@dataclass(frozen=True, eq=False)
class Pattern:
    """Positions of E entries in a ``rows x columns`` matrix, stored by rows (CSR). An entry is a stencil.

    Args:
        rows: number of rows.
        columns: number of columns.
        indptr: int64 (rows + 1,), where each row's entries start.
        indices: int32 (E,), the column of each entry.
        blocks: the matrix is block diagonal with that many blocks of equal size; kernels size their tiles by one block,
            so that a block's product does not depend on what is beside it.
        stencil: what one entry is, a small matrix of T weights; a number unless said otherwise. Weights come entry
            after entry, (E * T,).
    """

    rows: int
    columns: int
    indptr: np.ndarray
    indices: np.ndarray
    blocks: int = 1
    stencil: Stencil = POINT

    @classmethod
    def from_edges(
        cls,
        targets: np.ndarray,
        sources: np.ndarray,
        rows: int,
        columns: int,
        blocks: int = 1,
        stencil: Stencil = POINT,
    ) -> "Pattern":
        """Make a pattern from (E,) row and column indices already sorted by row."""
        indptr = np.zeros(rows + 1, dtype=np.int64)
        np.cumsum(np.bincount(targets, minlength=rows), out=indptr[1:])
        return cls(rows, columns, indptr, sources.astype(np.int32), blocks, stencil)

    @property
    def size(self) -> int:
        """E, the number of entries."""
        return len(self.indices)

    @cached_property
    def row_of(self) -> np.ndarray:
        """int32 (E,), the row of each entry."""
        return np.repeat(np.arange(self.rows, dtype=np.int32), np.diff(self.indptr))

    @cached_property
    def transposed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """By columns (CSC): indptr int64 (columns + 1,), row int32 (E,) and position int64 (E,) of each entry."""
        order = np.argsort(self.indices, kind="stable")
        indptr = np.zeros(self.columns + 1, dtype=np.int64)
        np.cumsum(np.bincount(self.indices, minlength=self.columns), out=indptr[1:])
        return indptr, self.row_of[order], order

    def chunks(self, count: int, *, transposed: bool = False) -> np.ndarray:
        """Cut the rows (or columns) into ``count`` runs of about as many entries each, kept for the next call.

        Returns:
            int64 (count + 1,), where each run starts.
        """
        if (count, transposed) not in self._chunks:
            indptr = self.transposed[0] if transposed else self.indptr
            # An empty row is written as well, so it counts as one entry does.
            load = indptr + np.arange(len(indptr))
            starts = np.searchsorted(load, np.linspace(0, load[-1], count + 1)[:-1])
            self._chunks[count, transposed] = np.append(starts, len(indptr) - 1)
        return self._chunks[count, transposed]

    def on(self, device: torch.device, arrays: Callable[["Pattern"], tuple[np.ndarray, ...]]) -> tuple[Tensor, ...]:
        """Index arrays as int64 tensors on a device, kept for the next call.

        Args:
            device: where the tensors are.
            arrays: makes the arrays of this pattern; a function of a module, by which they are kept.

        Returns:
            As many tensors as ``arrays`` makes.
        """
        if (device, arrays) not in self._tensors:
            self._tensors[device, arrays] = tuple(
                torch.as_tensor(index, dtype=torch.int64, device=device) for index in arrays(self)
            )
        return self._tensors[device, arrays]

    @cached_property
    def _chunks(self) -> dict[tuple[int, bool], np.ndarray]:
        return {}

    @cached_property
    def _tensors(self) -> dict[Any, tuple[Tensor, ...]]:
        return {}

"""Random access to the rows of a memory-mapped Arrow IPC file.

``pyarrow.Table.take`` joins the batches of a string column before it takes from them, which reads the
whole file and fails beyond 2 GB of text; taking batch by batch does neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

# A record batch holds at most this many rows and about this many characters: enough to make Arrow's
# fixed cost per batch vanish, little enough that writing a file of any size takes some 100 MB.
BATCH_ROWS = 65_536
BATCH_CHARS = 16_000_000


class ArrowRows:
    """The rows of the Arrow IPC file ``path`` by position.

    Attributes:
        batches: the file's record batches, as zero-copy views of the map.
        starts: int64 [batches + 1], first row of each batch, and the number of rows.
    """

    def __init__(self, path: Path):
        import numpy as np
        import pyarrow as pa

        reader: Any = pa.ipc.open_file(pa.memory_map(str(path)))
        self.batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self.starts = np.cumsum([0, *(b.num_rows for b in self.batches)])

    def take(self, rows: np.ndarray, columns: Sequence[str]) -> pa.RecordBatch:
        """``columns`` of the rows at ``rows`` (int64; any order, repeats allowed), in that order."""
        import numpy as np
        import pyarrow as pa

        which = np.searchsorted(self.starts, rows, side="right") - 1
        order = np.argsort(which, kind="stable")
        if not len(rows):
            return self.batches[0].select(list(columns)).slice(0, 0)
        pieces = []
        for group in np.split(order, np.flatnonzero(np.diff(which[order])) + 1):
            batch = int(which[group[0]])
            pieces.append(self.batches[batch].select(list(columns)).take(pa.array(rows[group] - self.starts[batch])))
        if len(pieces) == 1:
            return pieces[0]  # one batch: the stable sort left the order alone
        back = np.empty(len(rows), dtype=np.int64)
        back[order] = np.arange(len(rows))
        return pa.concat_batches(pieces).take(pa.array(back))

    def values(self, rows: np.ndarray, column: str) -> list[str]:
        """One column of the rows at ``rows``, in that order."""
        return self.take(rows, [column]).column(0).to_pylist()


def batch_ranges(chars: np.ndarray) -> Iterator[tuple[int, int]]:
    """(start, stop) of record batches over rows of ``chars`` characters each, within the two limits above."""
    import numpy as np

    ends = np.cumsum(chars)
    start = 0
    while start < len(chars):
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + BATCH_CHARS, side="right"))
        stop = min(max(stop, start + 1), start + BATCH_ROWS)
        yield start, stop
        start = stop

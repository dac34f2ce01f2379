"""Which passage each vector of an index is that was made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rag_exp.core.errors import DataError
from rag_exp.retrieval.precomputed import named, read_names
from rag_exp.retrieval.results import NOTHING

if TYPE_CHECKING:
    import numpy as np

ROW_BYTES = 8  # of a vector, to say which passage it is
_BATCH = 65_536  # ids looked up at once
_ROWS, _NUMBERS = "rows.npy", "numbers.npy"


class PassageIds(Protocol):
    """The access to a corpus's ids that is needed; ``data.passages.PassageTable`` gives it."""

    def __len__(self) -> int: ...

    def ids(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """The id of each row."""
        ...

    def rows_of(self, ids: Sequence[str]) -> list[list[int]]:
        """Rows that each id names: none, one, or those that a passage was cut into."""
        ...


@dataclass(frozen=True)
class Numbering:
    """The corpus row of every vector of an index.

    Attributes:
        rows_N: int64, each row of the corpus once.
        numbers_N: int64, rising: what the index calls the vector of that row; None: they are 0, 1, ...
    """

    rows_N: np.ndarray
    numbers_N: np.ndarray | None = None

    @classmethod
    def of(cls, numbers_N: np.ndarray, rows_N: np.ndarray) -> Numbering:
        """From numbers in any order, each once."""
        import numpy as np

        order = np.argsort(numbers_N)
        numbers_N, rows_N = numbers_N[order], rows_N[order]
        from_zero = len(numbers_N) == 0 or (numbers_N[0] == 0 and numbers_N[-1] == len(numbers_N) - 1)
        return cls(rows_N, None if from_zero else numbers_N)

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Rows of numbers of any shape; of nothing (-1) nothing. Numbers below that are hashes, say."""
        import numpy as np

        found = numbers != NOTHING
        places = numbers[found] if self.numbers_N is None else np.searchsorted(self.numbers_N, numbers[found])
        rows = np.full(numbers.shape, NOTHING, np.int64)
        rows[found] = self.rows_N[places]
        return rows

    def selector(self, first: int) -> Any:
        """faiss's selection of the vectors of the first ``first`` rows."""
        import faiss
        import numpy as np

        chosen_N = np.asarray(self.rows_N < first)
        if self.numbers_N is None:
            return faiss.IDSelectorBitmap(np.packbits(chosen_N, bitorder="little"))
        return faiss.IDSelectorBatch(np.asarray(self.numbers_N[chosen_N]))

    @property
    def bytes(self) -> int:
        return self.rows_N.nbytes + (0 if self.numbers_N is None else self.numbers_N.nbytes)

    def save(self, folder: Path) -> None:
        import numpy as np

        np.save(folder / _ROWS, self.rows_N, allow_pickle=False)
        if self.numbers_N is not None:
            np.save(folder / _NUMBERS, self.numbers_N, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> Numbering:
        """What :meth:`save` wrote, mapped.

        Raises:
            DataError: nothing readable there.
        """
        import numpy as np

        try:
            arrays = [
                np.load(folder / name, mmap_mode="r", allow_pickle=False)
                for name in (_ROWS, _NUMBERS)
                if (folder / name).exists() or name == _ROWS
            ]
        except (OSError, ValueError) as e:
            raise DataError(f"{folder}: no readable numbering of an index's vectors there ({e}).") from e
        return cls(*arrays)


def rows_of(numbers_N: np.ndarray, file: str, ids: str | None, passages: PassageIds) -> np.ndarray:
    """The corpus row of the vector that each of ``numbers_N`` calls, int64 [N]; every row of the corpus comes once.

    Args:
        numbers_N: int64, as the index in ``file`` numbers its vectors.
        ids: a file of passage ids, of which that in line i (from 0) belongs to number i; None: the numbers, written
            out, are the ids.
        passages: the whole corpus.

    Raises:
        DataError: numbers, ids and passages do not match one to one; some that do not are named.
    """
    import numpy as np

    if len(np.unique(numbers_N)) < len(numbers_N):
        ordered = np.sort(numbers_N)
        twice = ordered[1:][ordered[1:] == ordered[:-1]][0]
        raise DataError(f"{file}: two of its vectors have the number {twice}.")
    source = file if ids is None else ids
    names = list(map(str, numbers_N.tolist())) if ids is None else _names(numbers_N, file, ids)
    rows_N = np.full(len(names), -1, np.int64)
    for start in range(0, len(names), _BATCH):
        for place, rows in enumerate(passages.rows_of(names[start : start + _BATCH]), start):
            if len(rows) > 1:
                raise DataError(
                    f"{source}: {names[place]!r} names {len(rows)} passages, into which it was cut here "
                    "(passages=words), and has one vector: use passages=whole."
                )
            rows_N[place] = rows[0] if rows else -1
    unknown = np.flatnonzero(rows_N < 0)
    if len(unknown):
        mend = "" if ids is not None else " (index.ids names passages by other ids than the numbers of the index)"
        raise DataError(
            f"{source}: {len(unknown)} of {len(names)} ids are no passage of the corpus, first "
            f"{named(names[i] for i in unknown.tolist())}{mend}."
        )
    held = np.bincount(rows_N, minlength=len(passages))
    if (held > 1).any():
        raise DataError(f"{source}: the passage {passages.ids([int(held.argmax())])[0]!r} comes twice.")
    if not held.all():
        absent = np.flatnonzero(held == 0)
        raise DataError(
            f"{file}: no vector for {len(absent)} of the corpus's {len(passages)} passages, first "
            f"{named(passages.ids(absent[:8]))}. An index is searched over the corpus that it holds."
        )
    return rows_N


def _names(numbers_N: np.ndarray, file: str, ids: str) -> list[str]:
    """The ids of ``ids`` in the order of the numbers."""
    import numpy as np

    names = read_names(ids)
    if len(numbers_N) and (numbers_N.min() < 0 or numbers_N.max() >= len(names)):
        wrong = numbers_N.max() if numbers_N.max() >= len(names) else numbers_N.min()
        raise DataError(
            f"{file}: one of its vectors has the number {wrong}, for which {ids} has no line (from 0): each needs one. "
            "An index whose numbers are the passages' ids is read with index.ids=null."
        )
    if len(names) > len(numbers_N):
        bare = np.delete(np.arange(len(names)), numbers_N)
        raise DataError(
            f"{ids}: {len(names)} ids for the {len(numbers_N)} vectors of {file}; without one are "
            f"{named(names[i] for i in bare.tolist())}."
        )
    return [names[number] for number in numbers_N.tolist()]

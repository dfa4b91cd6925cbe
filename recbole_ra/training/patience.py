"""Early stopping that ends on a plateau: RecBole's is patient again after any gain, however small."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

from recbole.trainer import trainer as recbole_trainer
from recbole.utils import early_stopping


@dataclass
class Patience:
    """Counts epochs since the last one whose gain was worth waiting for.

    Which epoch is kept is RecBole's decision: the best one, whatever its margin.

    Attributes
    ----------
    margin : float
        Share of the validation metric that an epoch must gain over ``mark`` to count; 0 = as RecBole.
    mark : float or None
        The metric of the last epoch that counted.
    held : bool
        Whether it does not count now.
    """

    margin: float
    mark: float | None = None
    held: bool = False

    def __call__(
        self, value: float, best: float, cur_step: int, max_step: int, bigger: bool = True
    ) -> tuple[float, int, bool, bool]:
        """As RecBole's ``early_stopping``: the best, epochs waited, whether to stop, whether to keep this."""
        best, _, _, keep = early_stopping(value, best, cur_step, max_step, bigger)
        mark = -math.inf if self.mark is None else self.mark if bigger else -self.mark
        gained = (value if bigger else -value) - mark
        if self.mark is None or gained > self.margin * abs(self.mark) or (keep and self.margin == 0):
            self.mark, cur_step = float(value), 0
        else:
            cur_step = 0 if self.held else cur_step + 1
        return best, cur_step, cur_step > max_step, keep

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Let RecBole's training loop ask this one."""
        before = recbole_trainer.early_stopping
        recbole_trainer.early_stopping = self
        try:
            yield
        finally:
            recbole_trainer.early_stopping = before

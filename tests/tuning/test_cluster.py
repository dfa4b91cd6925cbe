"""Ray starts and leaves the process as it was."""

from __future__ import annotations

import signal
from typing import Any


def test_the_signal_to_end_is_not_taken_by_ray(machine: Any) -> None:
    assert machine.cpus > 0
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

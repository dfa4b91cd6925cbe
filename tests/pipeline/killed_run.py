"""Runs the pipeline and kills its own process at a named point: ``python killed_run.py POINT SETTINGS``.

``POINT`` is ``never``, ``epoch:STAGE:N`` (after epoch N was written), ``batch:STAGE:N`` (before the
N-th batch of that stage), ``best:STAGE:N`` (between the best checkpoint and the last one), or
``block:decoded:N`` (after N blocks of decoded sequences were written).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import torch

from recbole_ra.pipeline.runner import run
from recbole_ra.regeneration import decoding
from recbole_ra.training.trainer import RaTrainer


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(kind: str, stage: str, number: int) -> Callable[[Any], None] | None:
    """Put the trap where the point says."""
    if kind == "epoch":

        def after_epoch(entry: Any) -> None:
            if entry["stage"] == stage and entry["epoch"] == number:
                die()

        return after_epoch
    inner_write = decoding.write_arrays
    inner_batch, inner_best = RaTrainer._check_nan, RaTrainer._save_checkpoint
    seen = {"batch": 0, "block": 0}

    def at_batch(self: Any, loss: Any) -> None:
        if self.stage == stage:
            seen["batch"] += 1
            if kind == "batch" and seen["batch"] == number:
                die()
        inner_batch(self, loss)

    def at_best(self: Any, epoch: int, **options: Any) -> None:
        inner_best(self, epoch, **options)
        if self.stage == stage and kind == "best" and epoch == number:
            die()

    def at_block(path: Any, **arrays: Any) -> None:
        inner_write(path, **arrays)
        seen["block"] += 1
        if kind == "block" and seen["block"] == number:
            die()

    decoding.write_arrays = at_block
    RaTrainer._check_nan = at_batch
    RaTrainer._save_checkpoint = at_best
    return None


if __name__ == "__main__":
    torch.set_num_threads(1)
    point, settings = sys.argv[1], json.loads(sys.argv[2])
    callback = None
    if point != "never":
        kind, stage, number = point.split(":")
        callback = arm(kind, stage, int(number))
    outcome = run(on_epoch=callback, **settings)
    print(json.dumps({"test": outcome.test, "valid": outcome.valid, "reused": outcome.reused}))

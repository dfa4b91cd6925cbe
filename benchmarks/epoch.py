"""One SASRec epoch: RecBole 1.2.1's trainer against ours, same objective and settings, in turn in one run.

    python benchmarks/epoch.py --data_path=dataset --dataset=amazon-beauty --rounds=2

Both train SASRec with full softmax over the catalogue (D 64, 2 layers, histories of 50, 2048 targets
a step) on the same split. Prints seconds of each epoch and the ratio of each pair.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from time import perf_counter

import torch

from recbole_ra.data.dataset import Splits
from recbole_ra.settings.config import RaConfig
from recbole_ra.training.loaders import train_batches
from recbole_ra.training.setup import build_base, seed_everything
from recbole_ra.training.trainer import RaTrainer


def peer_epoch(config: RaConfig) -> tuple[float, float]:
    """Seconds that RecBole needs to expand the data and to train one epoch."""
    from recbole.data import data_preparation
    from recbole.data.dataset import SequentialDataset
    from recbole.model.sequential_recommender import SASRec
    from recbole.trainer import Trainer

    started = perf_counter()
    dataset = SequentialDataset(config)
    train, _, _ = data_preparation(config, dataset)
    prepared = perf_counter() - started
    trainer = Trainer(config, SASRec(config, train.dataset).to(config["device"]))
    started = perf_counter()
    trainer._train_epoch(train, 0)
    return prepared, perf_counter() - started


def our_epoch(config: RaConfig, folder: Path) -> tuple[float, float]:
    """Seconds that we need to load the data and to train one epoch."""
    started = perf_counter()
    splits = Splits.load(config)
    seed_everything(config)
    base = build_base(config, splits)
    batches = train_batches(config, splits, base.own, splits.train)
    prepared = perf_counter() - started
    trainer = RaTrainer(
        config,
        base.trained,
        folder=folder,
        identity={"model": "SASRec", "vocabulary": "", "n_items": ""},
        stage="SASRec",
        train_dataset=splits.train,
    )
    started = perf_counter()
    trainer._train_epoch(batches, 0)
    return prepared, perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--dataset", default="amazon-beauty")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--targets_per_pass", type=int, default=None)
    given = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "data_path": given.data_path,
            "checkpoint_dir": folder,
            "show_progress": False,
            "state": "ERROR",
        }
        if given.targets_per_pass is not None:
            settings["targets_per_pass"] = given.targets_per_pass
        config = RaConfig("SASRec", given.dataset, overrides=settings)
        print(f"{given.dataset}, {torch.get_num_threads()} threads, {config.feed}")
        for number in range(given.rounds):
            ours_ready, ours = our_epoch(config, Path(folder))
            peer_ready, peer = peer_epoch(config)
            ratios.append(peer / ours)
            print(
                f"round {number}: RecBole {peer:.1f} s (+ {peer_ready:.1f} s to prepare), "
                f"ours {ours:.1f} s (+ {ours_ready:.1f} s), ratio {ratios[-1]:.1f}",
                flush=True,
            )
    print(f"median ratio {statistics.median(ratios):.1f}")


if __name__ == "__main__":
    main()

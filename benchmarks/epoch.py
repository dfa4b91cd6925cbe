"""One epoch of models of ours, and of RecBole 1.2.1's where it has the model, in turn in one run.

    python benchmarks/epoch.py --data_path=dataset --dataset=amazon-beauty --models=SASRec,GRU4Rec --rounds=2

Both train with full softmax over the catalogue and plain labels (D 64, histories of 50, 2048 targets a
step) on one split; SASRec in RecBole's layout, as the two are to compute the same. Prints seconds of each
epoch and their ratio. Further words are settings, as on the command line.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from command import start

from recbole_ra.cli import parse_settings
from recbole_ra.data.dataset import Splits
from recbole_ra.data.training_part import TrainingPart
from recbole_ra.models.registry import BACKBONES
from recbole_ra.settings.config import RaConfig
from recbole_ra.training.loaders import train_batches
from recbole_ra.training.setup import build_base, seed_everything
from recbole_ra.training.trainer import RaTrainer

IN_RECBOLE = ("SASRec", "GRU4Rec")
AS_RECBOLE = {
    "layout": "recbole",
    "n_heads": 2,
    "inner_size": 256,
    "hidden_dropout_prob": 0.5,
    "attn_dropout_prob": 0.5,
}


def peer_epoch(config: RaConfig) -> tuple[float, float]:
    """Seconds that RecBole needs to expand the data and to train one epoch."""
    from recbole.data import data_preparation
    from recbole.data.dataset import SequentialDataset
    from recbole.model import sequential_recommender
    from recbole.trainer import Trainer

    started = perf_counter()
    dataset = SequentialDataset(config)
    train, _, _ = data_preparation(config, dataset)
    prepared = perf_counter() - started
    kind = getattr(sequential_recommender, config.backbone)
    trainer = Trainer(config, kind(config, train.dataset).to(config["device"]))
    started = perf_counter()
    trainer._train_epoch(train, 0)
    return prepared, perf_counter() - started


def our_epoch(config: RaConfig, folder: Path) -> tuple[float, float]:
    """Seconds that we need to load the data and to train one epoch."""
    started = perf_counter()
    splits = Splits.load(config)
    seed_everything(config)
    base = build_base(config, splits)
    assert base.own is not None, "one of ours"
    base.own.see(TrainingPart(splits.train).sequences)
    batches = train_batches(config, splits, base.own, splits.train)
    prepared = perf_counter() - started
    trainer = RaTrainer(
        config,
        base.trained,
        folder=folder,
        identity={"model": config.backbone, "vocabulary": "", "n_items": ""},
        stage=config.backbone,
        train_dataset=splits.train,
    )
    started = perf_counter()
    trainer._train_epoch(batches, 0)
    return prepared, perf_counter() - started


def measure(name: str, dataset: str, rounds: int, files: list[str], chosen: dict[str, Any]) -> None:
    """Print the seconds of each round, and the ratio to RecBole's where it has the model."""
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "checkpoint_dir": folder,
            "show_progress": False,
            "state": "ERROR",
            "train_batch_size": 2048,
            "label_smoothing": 0.0,
            **(AS_RECBOLE if name == "SASRec" else {}),
            **chosen,
        }
        config = RaConfig(name, dataset, files, settings)
        print(f"{name}, {dataset}, {torch.get_num_threads()} threads, {config.feed}")
        for number in range(rounds):
            ours_ready, ours = our_epoch(config, Path(folder))
            if name not in IN_RECBOLE:
                print(f"round {number}: {ours:.1f} s (+ {ours_ready:.1f} s)", flush=True)
                continue
            peer_ready, peer = peer_epoch(config)
            ratios.append(peer / ours)
            print(
                f"round {number}: RecBole {peer:.1f} s (+ {peer_ready:.1f} s to prepare), "
                f"ours {ours:.1f} s (+ {ours_ready:.1f} s), ratio {ratios[-1]:.1f}",
                flush=True,
            )
    if ratios:
        print(f"median ratio {statistics.median(ratios):.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--dataset", default="amazon-beauty")
    parser.add_argument("--models", default="SASRec", help=f"some of {', '.join(BACKBONES)}")
    parser.add_argument("--rounds", type=int, default=1)
    given, words = parser.parse_known_args()
    chosen, files = parse_settings(words)
    names = given.models.split(",")
    for name in names:
        if name not in BACKBONES:
            parser.error(f"--models: {name!r} is no backbone of ours; they are {', '.join(BACKBONES)}")
    for name in names:
        measure(name, given.dataset, given.rounds, files, chosen)


if __name__ == "__main__":
    start(main)

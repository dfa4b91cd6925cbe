"""What new memories are worth: ml-100k in the order of time, fed day by day without training.

Models are trained on the first 80 % of the interactions. Every later interaction with a known item is
then predicted from all that its user did before it (filter_seen, NDCG@10). With new memories, the pairs of a
day are added when the day is over. Beside it a model that is trained again on the first 90 %.

    python benchmarks/remember.py --epochs=30 --raft_epochs=20 --MAX_ITEM_LIST_LENGTH=20 --alpha=0.5

Further words are settings, as on the command line.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import recbole
from command import read_settings, start

import recbole_ra
from recbole_ra.training.evaluation import error_over_users

DAY = 86_400


def read() -> pd.DataFrame:
    """Interactions in the order of time."""
    path = Path(recbole.__file__).parent / "dataset_example" / "ml-100k" / "ml-100k.inter"
    table = pd.read_csv(
        path, sep="\t", usecols=[0, 1, 3], names=["user", "item", "timestamp"], header=0, dtype=str
    )
    table["timestamp"] = table["timestamp"].astype(float)
    return table.sort_values(["timestamp", "user", "item"], kind="stable", ignore_index=True)


def train(model: str, table: pd.DataFrame, name: str, below: Path, settings: dict[str, Any]) -> Path:
    """Train on a table; returns the run's folder."""
    folder = below / "dataset" / name
    folder.mkdir(parents=True, exist_ok=True)
    header = ["user_id:token", "item_id:token", "timestamp:float"]
    table.to_csv(folder / f"{name}.inter", sep="\t", index=False, header=header)
    result = recbole_ra.run(
        model,
        name,
        **{
            "show_progress": False,
            "state": "ERROR",
            **settings,
            "data_path": str(below / "dataset"),
            "output_dir": str(below / "runs"),
            "checkpoint_dir": str(below / "saved"),
            "user_inter_num_interval": "[3,inf)",
            "save_model": True,
        },
    )
    return Path(result.folder)


def gains(recommender: recbole_ra.Recommender, events: pd.DataFrame, before: list[list[str]]) -> Any:
    """NDCG@10 of each event, predicted from the items before it."""
    table = recommender.recommend(histories=before)
    target = events["item"].to_numpy()[table["user"].to_numpy(dtype=int)]
    hit = table[table["item"].to_numpy() == target]
    found = np.zeros(len(events))
    found[hit["user"].to_numpy(dtype=int)] = 1 / np.log2(hit["rank"].to_numpy() + 1)
    return found


def feed(folder: Path, past: pd.DataFrame, events: pd.DataFrame, *, remember: bool) -> tuple[Any, float]:
    """Predict events day by day; returns NDCG@10 of each, NaN if nothing is known of user or item.

    And milliseconds to remember one.
    """
    recommender = recbole_ra.load(folder)
    histories = past.groupby("user")["item"].agg(list).to_dict()
    found, seconds, n_added = [], 0.0, 0
    for _, day in events.groupby(events["timestamp"] // DAY):
        before = []
        for user, item in zip(day["user"], day["item"], strict=True):
            items = histories.setdefault(user, [])
            before.append(list(items))
            items.append(item)
        gain = gains(recommender, day, before)
        known = [
            item in recommender.items and len(items) > 0
            for item, items in zip(day["item"], before, strict=True)
        ]
        found.append(np.where(known, gain, np.nan))
        if remember:
            started = perf_counter()
            n_added += recommender.add(day).events
            seconds += perf_counter() - started
    return np.concatenate(found), 1000 * seconds / max(n_added, 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _, words = parser.parse_known_args()
    settings = read_settings(words)
    everything = read()
    cuts = [int(share * len(everything)) for share in (0.8, 0.9)]
    past, events = everything[: cuts[0]], everything[cuts[0] :].reset_index(drop=True)
    late = np.arange(len(events)) >= cuts[1] - cuts[0]
    rows: list[tuple[str, Any, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        below = Path(folder)
        old = {model: train(model, past, "first80", below, settings) for model in ("SASRec", "RaSASRec")}
        gain, _ = feed(old["SASRec"], past, events, remember=False)
        rows.append(("SASRec, trained on 80 %", gain, ""))
        gain, _ = feed(old["RaSASRec"], past, events, remember=False)
        rows.append(("RaSASRec, trained on 80 %, memories as trained", gain, ""))
        gain, cost = feed(old["RaSASRec"], past, events, remember=True)
        rows.append(("RaSASRec, trained on 80 %, new memories each day", gain, f"{cost:.2f} ms an event"))
        known = ~np.isnan(rows[0][1])
        until = everything[: cuts[1]]
        for model in ("SASRec", "RaSASRec"):
            started = perf_counter()
            new = train(model, until, "first90", below, settings)
            seconds = perf_counter() - started
            gain = np.full(len(events), np.nan)
            gain[late], _ = feed(new, until, events[late], remember=False)
            rows.append((f"{model}, trained again on 90 %", gain, f"{seconds:.0f} s"))
    both = known & ~(late & np.isnan(rows[-1][1]))
    spans = {"80-90 %": both & ~late, "90-100 %": both & late}
    print(
        f"{len(events)} events, of users and items that are known: "
        + str({k: int(v.sum()) for k, v in spans.items()})
    )
    print("| model | " + " | ".join(f"NDCG@10, {name}" for name in spans) + " | cost |")
    for label, gain, cost in rows:
        cells = [
            f"{gain[span].mean():.4f}" if not np.isnan(gain[span]).any() else "" for span in spans.values()
        ]
        print(f"| {label} | {' | '.join(cells)} | {cost} |")
    for name, span in spans.items():
        change = (rows[2][1] - rows[1][1])[span]
        error = error_over_users(change, events["user"].to_numpy()[span])
        print(f"new memories, {name}: {change.mean():+.4f} ± {error:.4f}")


if __name__ == "__main__":
    start(main)

"""Mean and spread over seeds of a model and of its backbone, both ranking protocols.

    python benchmarks/seeds.py --model=RaSASRec --dataset=amazon-beauty --data_path=dataset

Everything is selected on validation; each seed's test is computed once. Stages that were trained
before are reused. Further words are settings, as on the command line.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping

from command import read_settings, start

from recbole_ra import Result, run


def summary(name: str, results: list[Mapping[str, Mapping[str, float]]]) -> None:
    """One line a protocol: mean ± standard deviation of each metric."""
    for protocol in results[0]:
        cells = []
        for metric in results[0][protocol]:
            values = [result[protocol][metric] for result in results]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{metric} {statistics.mean(values):.4f} ± {spread:.4f}")
        print(f"{name:10s} {protocol:8s} " + "  ".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", default="2020,2021,2022")
    given, words = parser.parse_known_args()
    settings = read_settings(words, model="RaSASRec", dataset="amazon-beauty")
    model, dataset = str(settings.pop("model")), settings.pop("dataset")
    results: list[Result] = []
    for seed in given.seeds.split(","):
        result = run(model, dataset, **{**settings, "seed": int(seed)})
        results.append(result)
        print(f"seed {seed}: {result.seconds}, reused {result.reused}", file=sys.stderr)
    print(f"{model} on {dataset}, seeds {given.seeds}")
    summary(model, [result.test for result in results])
    if results[0].backbone_test is not None:
        summary(model.removeprefix("Ra"), [result.backbone_test for result in results])
        for protocol in results[0].test:
            for metric in results[0].test[protocol]:
                after = statistics.mean(result.test[protocol][metric] for result in results)
                before = statistics.mean(result.backbone_test[protocol][metric] for result in results)
                print(f"gain {protocol} {metric}: {100 * (after / before - 1):+.1f} %")


if __name__ == "__main__":
    start(main)

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

from recbole_ra import Result, run
from recbole_ra.cli import parse_settings


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
    parser.add_argument("--model", default="RaSASRec")
    parser.add_argument("--dataset", default="amazon-beauty")
    parser.add_argument("--seeds", default="2020,2021,2022")
    given, words = parser.parse_known_args()
    settings, files = parse_settings(words)
    results: list[Result] = []
    for seed in given.seeds.split(","):
        result = run(given.model, given.dataset, files, **{**settings, "seed": int(seed)})
        results.append(result)
        print(f"seed {seed}: {result.seconds}, reused {result.reused}", file=sys.stderr)
    print(f"{given.model} on {given.dataset}, seeds {given.seeds}")
    summary(given.model, [result.test for result in results])
    if results[0].backbone_test is not None:
        summary(given.model.removeprefix("Ra"), [result.backbone_test for result in results])
        for protocol in results[0].test:
            for metric in results[0].test[protocol]:
                after = statistics.mean(result.test[protocol][metric] for result in results)
                before = statistics.mean(result.backbone_test[protocol][metric] for result in results)
                print(f"gain {protocol} {metric}: {100 * (after / before - 1):+.1f} %")


if __name__ == "__main__":
    main()

"""Every way to use memories, over one backbone: a table of both ranking protocols.

    python benchmarks/fusions.py --model=RaSASRec --dataset=amazon-beauty --data_path=dataset

The backbone is trained once. Each fusion is fine-tuned and its weights are chosen on validation; the test is
computed once, ± is the paired standard error over users. Further words are settings, as on the command line.
"""

from __future__ import annotations

import argparse
from typing import Any

from command import read_settings, start

from recbole_ra import run
from recbole_ra.settings.declared import FUSIONS, MIXED

PROTOCOLS = ("unmasked", "masked")


def compared(result: Any, metric: str) -> list[str]:
    """Cells of a row: the weights, then for each protocol validation, test, and the test's gain."""
    chosen = result.memory["choice"] or {"steps": []}
    weights = {name: value for step in chosen["steps"] for name, value in step["chosen"].items()}
    cells = [", ".join(f"{name} {value:g}" for name, value in weights.items())]
    for protocol in PROTOCOLS:
        tested = result.memory["comparison"][protocol]
        gain = result.valid[protocol][metric] - result.backbone_valid[protocol][metric]
        cells += [
            f"{gain:+.4f}",
            f"{result.test[protocol][metric]:.4f}",
            f"{tested['gain']:+.4f} ± {tested['error']:.4f}",
        ]
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    everything = [*FUSIONS, *MIXED, *(f"{fuses}+{mixes}" for fuses in FUSIONS for mixes in MIXED)]
    parser.add_argument("--fusions", default=",".join(everything))
    given, words = parser.parse_known_args()
    settings = read_settings(words, model="RaSASRec", dataset="amazon-beauty")
    model, dataset = str(settings.pop("model")), settings.pop("dataset")
    metric = ""
    rows = []
    for fusion in given.fusions.split(","):
        result = run(model, dataset, **{**settings, "fusion": fusion})
        metric = result.memory["comparison"]["unmasked"]["metric"]
        if not rows:
            before = [result.backbone_test[name][metric] for name in PROTOCOLS]
            base = [cell for value in before for cell in ("", f"{value:.4f}", "")]
            rows.append([model.removeprefix("Ra"), "", *base])
        rows.append([f"`{fusion}`", *compared(result, metric)])
        print("| " + " | ".join(rows[-1]) + " |", flush=True)
    head = [f"{dataset}, {metric}", "weights"]
    head += [f"{name}{part}" for name in PROTOCOLS for part in (" validation", "", " gain")]
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    start(main)

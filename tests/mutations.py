"""Breaks one part of the package at a time, in a copy, and runs the tests that must notice.

``python tests/mutations.py`` prints one line per mutation and ends with 1 if a broken part survives. It is
run by hand: each mutation costs an interpreter and a few seconds of tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

REPO = Path(__file__).resolve().parents[1]


class Mutation(NamedTuple):
    """What is broken: a text in a file of the package, what replaces it, and the tests that must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS = (
    Mutation(
        "a row's own memory votes for it",
        "retrieval/transitions.py",
        'left = vote - own[np.searchsorted(votes.indptr, place, side="right") - 1]',
        "left = vote",
        "tests/retrieval/test_transitions.py",
    ),
    Mutation(
        "a user's later pairs vote for an earlier row",
        "retrieval/finetuning.py",
        "asked = last_rows(split.prefixes) if extends else np.arange(len(split))",
        "asked = np.arange(len(split))",
        "tests/pipeline/test_runner.py",
    ),
    Mutation(
        "extend_bank adds nothing",
        "retrieval/bank.py",
        "    recommender.remember(keys=states.numpy(), **memories_of(run.splits.valid.prefixes))",
        "    pass",
        "tests/retrieval/test_bank.py",
    ),
    Mutation(
        "memory_scope is ignored",
        "retrieval/recommender.py",
        "k=self.n_neighbors, scope=self.scope",
        'k=self.n_neighbors, scope="any"',
        "tests/retrieval/test_bank.py",
    ),
    Mutation(
        "training queries see their owner's decoded rows",
        "retrieval/bank.py",
        'np.where(made, trained[facts["users"]], facts["lengths"])',
        'facts["lengths"]',
        "tests/retrieval/test_bank.py",
    ),
    Mutation(
        "the RAM's output is nearly nothing",
        "retrieval/fusion.py",
        "own * state + other * read",
        "own * state + 1e-6 * read",
        "tests/retrieval/test_fusion.py",
    ),
    Mutation(
        "the regenerator starts from nothing",
        "regeneration/regenerator.py",
        "model.network.load_items(teacher.item_table.detach())",
        "pass",
        "tests/regeneration/test_regenerator.py",
    ),
    Mutation(
        "Adam keeps its own betas",
        "regeneration/trainer.py",
        'group["betas"] = (0.9, 0.98)',
        "pass",
        "tests/regeneration/test_regenerator.py",
    ),
    Mutation(
        "the learning rate is constant",
        "regeneration/trainer.py",
        "return (1 + math.cos(math.pi * step / period)) / 2",
        "return 1.0",
        "tests/regeneration/test_regenerator.py",
    ),
    Mutation(
        "held-out pairs are trained on",
        "regeneration/regenerator.py",
        "train = Pairs(pairs.sequence[~is_dev], pairs.pattern[~is_dev])",
        "train = pairs",
        "tests/regeneration/test_regenerator.py",
    ),
    Mutation(
        "the regenerator's worst epoch is kept",
        "regeneration/trainer.py",
        "self.valid_metric_bigger = False\n        self.best_valid_score = math.inf",
        "self.valid_metric_bigger = True\n        self.best_valid_score = -math.inf",
        "tests/regeneration/test_regenerator.py",
    ),
    Mutation(
        "memories are used also where they do harm",
        "retrieval/choice.py",
        "return max(helping, key=lambda candidate: candidate.value[protocol], default=candidates[0])",
        "return min(candidates, key=lambda candidate: candidate.value[protocol])",
        "tests/retrieval/test_choice.py",
    ),
    Mutation(
        "items that a mixture raises past the target are not counted",
        "retrieval/candidates.py",
        "unmasked = others + passed",
        "unmasked = others",
        "tests/retrieval/test_candidates.py",
    ),
    Mutation(
        "rows with a chance are not scored",
        "retrieval/candidates.py",
        "stays.sum(1) < allowed[part]",
        "stays.sum(1) < 1",
        "tests/retrieval/test_candidates.py",
    ),
    Mutation(
        "new memories have no vote",
        "retrieval/recommender.py",
        'known.add(columns["recent"], columns["values"])',
        "pass",
        "tests/retrieval/test_transitions.py",
    ),
    Mutation(
        "the upper level moves the other way",
        "training/hypergradient.py",
        "return [-step * part",
        "return [step * part",
        "tests/training/test_hypergradient.py",
    ),
    Mutation(
        "the authors' slope keeps the factor that their code leaves out",
        "training/personalisation.py",
        "slope / STEP if self.settings.as_released else slope",
        "slope",
        "tests/training/test_personalisation.py",
    ),
    Mutation(
        "a set that was cut or changed is trained on",
        "regeneration/stage.py",
        "elif known != digest_bytes(file.read_bytes()):",
        "elif False:",
        "tests/regeneration/test_stage.py",
    ),
    Mutation(
        "products with the Hessian forget the normaliser",
        "models/softmax.py",
        "curve.sub_(mean[:, None]).mul_(slope)",
        "curve.mul_(slope)",
        "tests/models/test_softmax.py",
    ),
    Mutation(
        "a filter sees what lies beyond the history",
        "models/filters.py",
        "return weights @ x",
        "return weights @ x + x.mean(1, keepdim=True)",
        "tests/models/test_filters.py",
    ),
    Mutation(
        "training does not see the history bias",
        "models/backbone.py",
        "offsets=self._offsets(states, batch),",
        "",
        "tests/models/test_history.py",
    ),
    Mutation(
        "what was seen is recommended again",
        "inference/scoring.py",
        "] = -torch.inf",
        "] += 0",
        "tests/inference/test_contracts.py",
    ),
    Mutation(
        "a folder that holds something else is replaced by an export",
        "inference/export.py",
        "sorted(found - _written(folder))",
        "sorted(found - found)",
        "tests/inference/test_export.py",
    ),
    Mutation(
        "a changed file is not noticed",
        "core/store.py",
        "if told != now[name]",
        "if False",
        "tests/core/test_store.py",
    ),
    Mutation(
        "a setting is in no key",
        "settings/config.py",
        "if stage not in about.shapes:",
        'if stage not in about.shapes or name == "gamma":',
        "tests/settings/test_stages.py",
    ),
    Mutation(
        "the average depends on the initial weights, and no stage has another version",
        "training/average.py",
        "(1 - self.decay) / (1 - self.decay**self.steps)",
        "1 - min(self.decay, self.steps / (self.steps + 10))",
        "tests/pipeline/test_golden.py",
    ),
    Mutation(
        "mined patterns need more support, and no stage has another version",
        "regeneration/mining.py",
        "keep = support >= min_support",
        "keep = support > min_support",
        "tests/pipeline/test_golden.py",
    ),
    Mutation(
        "who holds latest changes what it names later",
        "inference/files.py",
        "        return (path / MODEL).resolve()",
        "        return path / MODEL",
        "tests/inference/test_files.py",
    ),
    Mutation(
        "a recommender that is saved meanwhile is loaded in part",
        "inference/loading.py",
        "            if state_of(folder) == before:\n                recommender.on_disk",
        "            if True:\n                recommender.on_disk",
        "tests/inference/test_files.py",
    ),
    Mutation(
        "a user who was added sees later memories of their own",
        "retrieval/recommender.py",
        "owner = OWNER_FIELD if OWNER_FIELD in columns else self.fields.user",
        "owner = self.fields.user",
        "tests/inference/test_explanation.py",
    ),
    Mutation(
        "a pass that holds more than a batch makes a batch less",
        "data/batching.py",
        "cuts = np.maximum.accumulate(cuts - number) + number",
        "cuts = np.unique(cuts)\n        number = np.arange(len(cuts))\n        n = len(cuts) - 1",
        "tests/data/test_batching.py",
    ),
)


def passes(copy: Path, *tests: str) -> bool:
    """Whether the tests pass in the copy."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    return (
        subprocess.run(command, cwd=copy, env=environment, capture_output=True, check=False).returncode == 0
    )


def survives(mutation: Mutation, copy: Path) -> bool:
    """Whether the tests pass although the copy is broken; the copy is mended afterwards."""
    path = copy / "recbole_ra" / mutation.file
    whole = path.read_text()
    if whole.count(mutation.old) != 1:
        raise SystemExit(f"{mutation.name}: {mutation.file} does not hold the text once; update this script")
    path.write_text(whole.replace(mutation.old, mutation.new))
    try:
        survived = passes(copy, mutation.tests)
    finally:
        path.write_text(whole)
    print(f"{'SURVIVED' if survived else 'caught':9s} {mutation.name} ({mutation.tests})", flush=True)
    return survived


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("recbole_ra", "tests", "props", "setup.cfg", "pyproject.toml", "Makefile"):
            source = REPO / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
        if not passes(copy, *sorted({mutation.tests for mutation in MUTATIONS})):
            raise SystemExit("the tests fail without any mutation; mend them first")
        left = sum(survives(mutation, copy) for mutation in MUTATIONS)
    print(f"{len(MUTATIONS) - left} of {len(MUTATIONS)} mutations caught")
    return int(left > 0)


if __name__ == "__main__":
    raise SystemExit(main())

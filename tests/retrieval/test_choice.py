"""How much the memories may say is chosen on validation, and the backbone is kept unless they help."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from recbole_ra.data.dataset import Fields
from recbole_ra.models.history import HistoryBias
from recbole_ra.retrieval import held_out
from recbole_ra.retrieval.choice import Candidate, Choice, Step, choose
from recbole_ra.retrieval.comparison import _by_size, compare
from recbole_ra.retrieval.finetuning import cached
from recbole_ra.retrieval.held_out import set_weights
from recbole_ra.retrieval.mixture import NeighbourMixture
from recbole_ra.retrieval.neighbours import Queries
from recbole_ra.retrieval.recommender import RetrievalRecommender
from recbole_ra.retrieval.retrieved import Memories
from recbole_ra.training.evaluation import PROTOCOLS, RankingEvaluator, of_rows, ranks
from recbole_ra.training.loaders import EvalBatches


@pytest.fixture
def make(make: Callable[..., RetrievalRecommender]) -> Callable[..., RetrievalRecommender]:
    """Make recommenders whose memories say something."""
    return functools.partial(make, std=0.3)


def batches(model: RetrievalRecommender, split: Any, size: int = 17) -> EvalBatches:
    states = model.base.represent(split[torch.arange(len(split))]).detach()
    found = cached(model, split, model.retrieve(states, Queries.of(split.prefixes)))
    return EvalBatches(split, model.fields, batch_size=size, trim=True, query=found)


EVERY_USE = [
    "raserec",
    "scaled",
    "gate",
    "entropy",
    "random",
    "knn",
    "transitions",
    "gate+knn",
    "raserec+transitions",
]


def weights_of(fusion: str) -> list[str]:
    mixes = "knn" in fusion or "transitions" in fusion
    fuses = fusion not in ("knn", "transitions", "none")
    return ["mixture_weight"] * mixes + ["alpha"] * fuses


@pytest.mark.parametrize("history_bias", ["none", "state"])
@pytest.mark.parametrize("fusion", EVERY_USE)
def test_every_candidate_is_measured_as_evaluation_measures_it(
    fusion: str,
    history_bias: str,
    make: Callable[..., Any],
    tiny_splits: Any,
    tiny_config: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(held_out, "CPU_BLOCK_ELEMENTS", 200)  # blocks of four rows
    model, split = make(fusion=fusion, history_bias=history_bias), tiny_splits.valid
    weights = weights_of(fusion)
    if "alpha" in weights:
        set_weights(model, {"alpha": 0.6})  # as it was trained
    found = choose(model, batches(model, split), "masked_ndcg@10", weights)
    assert (found.metric, found.protocol) == ("ndcg@10", "masked")
    assert [step.weight for step in found.steps] == weights
    assert model.weights == {weight: found.chosen[weight] for weight in model.weights}
    config = tiny_config("RaSASRec")
    set_weights(model, dict.fromkeys(weights, 1.0))
    for step in found.steps:
        for candidate in step.candidates:
            set_weights(model, candidate.setting)
            ranking = RankingEvaluator(config, tiny_splits.train)
            for batch in EvalBatches(split, model.fields, batch_size=23, trim=True):
                with torch.no_grad():
                    ranking.add(model.full_sort_predict(batch.query), batch, batch.query)
            result = ranking.result()
            for protocol in PROTOCOLS:
                expected = pytest.approx(result[protocol]["ndcg@10"], abs=1e-3)
                assert candidate.value[protocol] == expected, candidate.setting
            assert candidate.value["mean"] == pytest.approx(sum(map(candidate.value.get, PROTOCOLS)) / 2)
        before = step.candidates[0]
        assert before.setting[step.weight] == 1
        assert 0.6 in [candidate.setting.get("alpha", 0.6) for candidate in step.candidates]
        helping = [candidate for candidate in step.candidates if candidate.helps("masked")]
        best = max(helping, key=lambda candidate: candidate.value["masked"], default=before)
        assert step.chosen == best.setting
        assert set(before.gain.values()) == {0}
        set_weights(model, step.chosen)


@pytest.mark.parametrize("fusion", [*EVERY_USE, "none"])
def test_weights_of_one_score_as_the_backbone(
    fusion: str, make: Callable[..., Any], tiny_splits: Any
) -> None:
    model, queries = make(fusion=fusion), tiny_splits.test[torch.arange(30)]
    set_weights(model, {"mixture_weight": 0.5})  # off until it is chosen
    if fusion != "none":
        assert not model.keeps_backbone
        before = model.full_sort_predict(queries)
        assert not torch.allclose(before, model.base.full_sort_predict(queries))
    set_weights(model, {"alpha": 1.0, "mixture_weight": 1.0})
    assert model.keeps_backbone
    torch.testing.assert_close(model.full_sort_predict(queries), model.base.full_sort_predict(queries))


@pytest.mark.parametrize("fusion", EVERY_USE)
def test_nothing_retrieved_scores_as_the_backbone(
    fusion: str, make: Callable[..., Any], tiny_splits: Any
) -> None:
    model, queries = make(fusion=fusion), tiny_splits.test[torch.arange(30)]
    set_weights(model, {"mixture_weight": 0.5})
    found = model.full_sort_predict(model.query(queries).without_memories())
    torch.testing.assert_close(found, model.base.full_sort_predict(queries))


def test_scaled_is_raserec_at_the_temperature_of_the_backbone(
    make: Callable[..., Any], tiny_splits: Any
) -> None:
    queries = tiny_splits.test[torch.arange(30)]
    plain, scaled = make(alpha=0.4), make(alpha=0.4, fusion="scaled")
    torch.testing.assert_close(0.4 * scaled.full_sort_predict(queries), plain.full_sort_predict(queries))


def test_a_new_gate_is_alpha(make: Callable[..., Any], tiny_splits: Any) -> None:
    queries = tiny_splits.test[torch.arange(30)]
    plain, gated = make(), make(fusion="gate")
    gated.fusion.load_state_dict(plain.fusion.state_dict(), strict=False)
    torch.nn.init.zeros_(gated.fusion.gate.outer.weight)
    torch.nn.init.zeros_(gated.fusion.gate.outer.bias)
    torch.testing.assert_close(gated.full_sort_predict(queries), plain.full_sort_predict(queries))


def test_a_mixture_of_two_distributions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known answer: probabilities mixed one by one, two neighbours that bring one item together."""
    scores = torch.tensor([[0.0, 1.0, 2.0, 0.5], [0.0, 1.0, 2.0, 0.5]], dtype=torch.float64)
    items = torch.tensor([[2, 3, 2], [1, 1, 1]])
    cosines = torch.tensor([[0.9, 0.8, 0.7], [0.1, 0.2, 0.3]], dtype=torch.float64)
    valid = torch.tensor([[True, True, True], [False, False, False]])
    mixture = NeighbourMixture(0.8, 0.1)
    query, memories = SimpleNamespace(states=None), Memories(None, None, None, items, valid)
    monkeypatch.setattr(Memories, "cosines", lambda self, states: cosines)
    shares = mixture.shares(query, memories)
    found = mixture.offsets(scores, *shares).add_to(scores.clone()).softmax(1)
    weight = (cosines[0] / 0.1).softmax(0)
    said = torch.tensor([0, 0, weight[0] + weight[2], weight[1]], dtype=torch.float64)
    torch.testing.assert_close(found[0], 0.8 * scores[0].softmax(0) + 0.2 * said)
    torch.testing.assert_close(found[1], scores[1].softmax(0))


def test_random_memories_are_the_same_in_each_pass_and_no_query_sees_its_future(
    make: Callable[..., Any], tiny_splits: Any
) -> None:
    model, rows = make(fusion="random"), torch.arange(len(tiny_splits.train))
    first, again = model.query(tiny_splits.train[rows]), model.query(tiny_splits.train[rows.flip(0)])
    assert torch.equal(first.ids, again.ids.flip(0))
    prefixes = tiny_splits.train.prefixes
    users, positions = torch.from_numpy(prefixes.users), torch.from_numpy(prefixes.position)
    own = (users[first.ids] == users[:, None]) & first.valid
    assert (positions[first.ids] < positions[:, None])[own].all()
    nearest = make().query(tiny_splits.train[rows])
    assert (first.ids == nearest.ids).float().mean() < 0.1


def candidate(alpha: float, unmasked: float, masked: float, error: float = 0.01) -> Candidate:
    gain = {"unmasked": unmasked, "masked": masked}
    return Candidate({"alpha": alpha}, gain, gain, {"unmasked": error, "masked": error})


@pytest.mark.parametrize(
    ("unmasked", "masked", "helps"),
    [
        (0.021, 0.0, True),
        (0.019, 0.02, False),
        (0.021, -0.009, True),
        (0.05, -0.02, False),
        (-0.02, 0.05, False),
    ],
)
def test_what_helps(unmasked: float, masked: float, helps: bool) -> None:
    """Beyond two standard errors where it counts, and no harm beyond one under the other protocol."""
    assert candidate(0.5, unmasked, masked).helps("unmasked") == helps


def test_what_is_said_of_a_choice() -> None:
    none = candidate(1.0, 0.0, 0.0)
    kept = Step("alpha", {"alpha": 1.0}, [none, candidate(0.5, 0.002, 0.001)])
    used = Step("alpha", {"alpha": 0.5}, [none, candidate(0.5, 0.05, 0.001)])
    mixed = Step(
        "mixture_weight",
        {"mixture_weight": 0.8, "decay": 0.6},
        [
            dataclasses.replace(none, setting={"mixture_weight": 1.0, "decay": 0.6}),
            dataclasses.replace(used.candidates[1], setting={"mixture_weight": 0.8, "decay": 0.6}),
        ],
    )
    small = (
        "alpha 0.5: validation ndcg@10 unmasked +0.0020 ± 0.0100, masked +0.0010 ± 0.0100, "
        "not beyond two standard errors"
    )
    alone = Choice("ndcg@10", "unmasked", [kept])
    assert alone.summary() == f"the backbone was kept: memories do not help (best {small})"
    both = Choice("ndcg@10", "unmasked", [mixed, kept])
    assert Choice.of_json(json.loads(json.dumps(both.as_json()))) == both
    assert both.chosen == {"mixture_weight": 0.8, "decay": 0.6, "alpha": 1.0}
    large = "validation ndcg@10 unmasked +0.0500 ± 0.0100, masked +0.0010 ± 0.0100"
    about = f"memories help: mixture_weight 0.8, decay 0.6: {large}"
    assert both.summary() == f"{about} (left at 1: best {small})"
    assert Choice("ndcg@10", "unmasked", [mixed, used]).summary() == f"{about}; alpha 0.5: {large}"
    lonely = Step("alpha", {"alpha": 1.0}, [none, dataclasses.replace(none, error={"unmasked": math.inf})])
    one_user = Choice("ndcg@10", "unmasked", [lonely])
    assert Choice.of_json(json.loads(json.dumps(one_user.as_json(), allow_nan=False))) == one_user
    given = Choice("ndcg@10", "unmasked", [kept], {"mixture_weight": 0.5})
    assert given.summary() == f"mixture_weight 0.5 as given; nothing helps beside it (best {small})"
    assert Choice.of_json(json.loads(json.dumps(given.as_json()))) == given
    helped = Choice("ndcg@10", "unmasked", [mixed], {"alpha": 0.7})
    assert helped.summary().startswith("alpha 0.7 as given; beside it help: mixture_weight 0.8, decay 0.6: ")


@pytest.mark.parametrize(
    ("unmasked", "masked", "ending"),
    [
        (0.05, 0.0, "0.0100"),
        (0.02, 0.0, "not beyond two standard errors"),
        (0.05, -0.02, "but worse masked"),
    ],
)
def test_why_a_candidate_does_not_help(unmasked: float, masked: float, ending: str) -> None:
    assert candidate(0.5, unmasked, masked).summary("unmasked").endswith(ending)


def test_metrics_of_rows_are_those_of_recbole(tiny_config: Callable[..., Any], tiny_splits: Any) -> None:
    config = tiny_config(metrics=["Recall", "NDCG", "MRR", "MAP", "Hit", "Precision"], valid_metric="NDCG@10")
    ranking = RankingEvaluator(config, tiny_splits.train)
    generator = torch.Generator().manual_seed(0)
    batch = next(iter(EvalBatches(tiny_splits.valid, Fields.of(config), batch_size=60, trim=True)))
    scores = torch.randn(len(batch.rows), tiny_splits.whole.item_num, generator=generator)
    ranking.add(scores, batch, batch.query)
    result = ranking.result()
    for protocol, rank in ranking.ranks().items():
        for metric, value in result[protocol].items():
            assert of_rows(metric, rank).mean() == pytest.approx(value, abs=1e-4), metric


def test_comparison_of_two_recommenders(tiny_config: Callable[..., Any], tiny_splits: Any) -> None:
    """Known answer: the second one ranks every second target first, the others as before."""
    config = tiny_config()
    before, after = (RankingEvaluator(config, tiny_splits.train) for _ in range(2))
    n = 40
    old = torch.full((n,), 2)
    new = torch.where(torch.arange(n) % 2 == 0, 0, old)
    for ranking, rank in ((before, old), (after, new)):
        for protocol in ranking.found:
            ranking.found[protocol].append(rank)
    facts = pd.DataFrame({"group": np.where(np.arange(n) % 2 == 0, "even", "odd")})
    found = compare(before, after, facts, "NDCG@10")["unmasked"]
    assert (found["rows"], found["helped"], found["harmed"]) == (n, 0.5, 0.0)
    assert found["gain"] == pytest.approx(0.25)
    assert found["p_value"] < 1e-6
    assert found["groups"]["group"]["even"]["gain"] == pytest.approx(0.5)
    assert found["groups"]["group"]["odd"]["gain"] == 0
    values = np.where(np.arange(n) % 2 == 0, 1.0, 0.5)
    assert found["p_value"] == pytest.approx(float(stats.ttest_rel(values, np.full(n, 0.5)).pvalue))
    assert compare(before, before, facts, "ndcg@10")["masked"]["p_value"] == 1
    twice = compare(before, after, facts.set_index(np.arange(n) // 4), "gauc")["unmasked"]
    assert twice["metric"] == "ndcg@10"
    assert twice["error"] == pytest.approx(0, abs=1e-12)  # of each user's four rows the same two gain
    alone = compare(before, after, pd.DataFrame({"group": ["one", *["rest"] * (n - 1)]}), "ndcg@10")["masked"]
    assert alone["groups"]["group"]["one"]["error"] is None
    assert alone["groups"]["group"]["rest"]["error"] > 0


def test_ranks_of_a_history_bias(make: Callable[..., Any], tiny_splits: Any) -> None:
    """A bias far below zero makes unmasked ranks those of the masked protocol."""
    model = make(history_bias="scalar")
    bias = model.base.backbone.history_bias
    assert isinstance(bias, HistoryBias)
    with torch.no_grad():
        bias.constant.fill_(-1e3)
        for batch in EvalBatches(tiny_splits.test, model.fields, batch_size=60, trim=True):
            short = batch.query[model.fields.length] < 8  # of longer histories the model sees a part
            scores = model.full_sort_predict(batch.query)
            unmasked, masked = ranks(scores, batch.targets, batch.history_row, batch.history_item)
            fresh = short & (masked < 1000)
            assert torch.equal(unmasked[fresh], masked[fresh])
            assert fresh.any()


def test_groups_that_read_alike_are_one() -> None:
    found = _by_size(np.array([0.991, 0.992, 0.993, 0.5]), "{:.1f}")
    assert list(found.categories) == ["0.5 to 0.9", "0.9 to 1.0", "1.0 to 1.0"]
    assert list(_by_size(np.array([0.991, 0.992, 0.993]), "{:.1f}").categories) == ["1.0 to 1.0"]

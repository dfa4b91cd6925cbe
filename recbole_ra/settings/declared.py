"""Every setting of ours, declared once; those of a backbone's architecture are beside the backbone.

A declaration says everything about a setting (:class:`recbole_ra.core.setting.Setting`): keys of stages,
help, checks of search spaces and notes on settings without effect follow from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recbole_ra.core.setting import setting
from recbole_ra.data.table import split_origins
from recbole_ra.models.history import HISTORY_BIASES

FUSIONS = ("raserec", "scaled", "gate", "entropy", "random")
MIXED = ("transitions", "knn")

EPOCHS = "a sweep compares trials at equal epochs"
MEASURE = "it says how trials are measured"


@dataclass(frozen=True)
class FeedSettings:
    """How training batches are composed (docs/training.md; what was measured: docs/results.md)."""

    targets_per_pass: int = setting(
        4,
        "targets of one user that share one pass of a causal encoder; 1 = prefix rows",
        low=1,
        shapes="backbone",
        while_training=True,
    )
    batch_of: str = setting(
        "targets",
        "what train_batch_size counts: targets, or passes; a pass is a whole sequence with "
        "targets_per_pass=50",
        choices=("targets", "passes"),
        shapes="backbone",
        expert=True,
    )
    length_groups: int = setting(
        0,
        "groups of like length inside a batch; 0 = 8 on a CPU, where padding costs, and 1 on a GPU, where "
        "each further pass does",
        low=0,
        shapes="backbone",
        while_training=True,
        expert=True,
    )


@dataclass(frozen=True)
class OptimSettings:
    """Optimisation beyond RecBole's own settings."""

    ema_decay: float = setting(
        0.998,
        "a running average of the weights is validated and kept: its decay per step, 0 = off",
        low=0,
        high=0.99999,
        shapes="backbone raft",
        expert=True,
    )
    stopping_margin: float = setting(
        0.003,
        "share of the validation metric that an epoch must gain to count against stopping_step; 0 = any gain",
        low=0,
        shapes="backbone raft",
        fixed=EPOCHS,
        expert=True,
    )


@dataclass(frozen=True)
class ScoringSettings:
    """How items are scored, whatever encodes the user."""

    history_bias: str = setting(
        "none",
        "term of items that the user has had: one number, or one that follows from the user's state",
        choices=HISTORY_BIASES,
        shapes="backbone raft",
    )


@dataclass(frozen=True)
class PatternSettings:
    """Mining of frequent patterns, for the bank and for regeneration (docs/method.md, section 1.1)."""

    window: int = setting(5, "positions that a mined pattern spans at most", low=2, shapes="patterns")
    min_support: int = setting(2, "sequences that must hold a mined pattern", low=1, shapes="patterns")


@dataclass(frozen=True)
class RegenerationSettings:
    """Regeneration of the training data, DR4SR (docs/method.md, section 1)."""

    regenerate: str = setting(
        "none",
        "training data: none, patterns, dr4sr, or what `recbole-ra regenerate` wrote; + after any but none "
        "personalises it (personalize=bilevel); auto: what validation says of them",
        shapes="rows",
        path=True,
    )
    regenerate_origins: str = setting(
        "original+pattern+regenerated", "rows of which origin train, joined by +", shapes="rows"
    )
    original_copies: int = setting(
        1, "copies of each original row in the training data", low=1, high=1000, shapes="rows", expert=True
    )
    deduplicate: str = setting(
        "all",
        "which equal rows train once: all, so that a decoded row is none that was mined, or decoded ones "
        "among themselves, as in the released code",
        choices=("all", "decoded"),
        shapes="rows",
        expert=True,
    )
    min_multiplicity: int = setting(
        1,
        "pairs of a sequence and a latent space that must write a decoded row",
        low=1,
        shapes="rows",
        expert=True,
    )
    row_weight: str = setting(
        "none",
        "what a row counts: patterns by their support, decoded rows by the pairs of a sequence and a space "
        "that wrote them, or both; 1 on average",
        choices=("none", "support", "multiplicity", "both"),
        shapes="backbone",
        expert=True,
    )
    regenerate_epochs: int = setting(
        0,
        "epochs on the regenerated rows, after which the originals alone train; 0 = all",
        low=0,
        shapes="backbone",
        fixed=EPOCHS,
        expert=True,
    )
    position_offset: str = setting(
        "none",
        "where regenerated rows begin: at the first position, or random: with as many places before them as "
        "a target of an original row has",
        choices=("none", "random"),
        shapes="backbone",
        expert=True,
    )
    variant: str = setting(
        "paper",
        "released: as DR4SR's authors' code where it differs from the paper (docs/method.md, section 7)",
        choices=("paper", "released"),
        shapes="regenerator decoded",
        expert=True,
    )
    pairs_per_sequence: int = setting(
        10, "patterns paired with a sequence at most", low=1, shapes="regenerator", expert=True
    )
    n_latents: int = setting(5, "latent spaces of the regenerator (P)", low=1, shapes="regenerator")
    diversity: bool = setting(
        True, "off: a plain Transformer without latent spaces and promoter", shapes="regenerator"
    )
    gamma: float = setting(
        0.5, "probability that a decoding step may take any item", low=0, high=1, shapes="decoded"
    )
    decode_length: int = setting(
        25, "items of a decoded sequence at most", low=2, shapes="decoded", expert=True
    )
    fidelity_rank: int = setting(
        0,
        "keep a decoded item only if SASRec ranks it this high after those before it; 0 = off",
        low=0,
        shapes="decoded",
        expert=True,
    )
    promoter_agrees: bool = setting(
        False,
        "keep a decoded row only if the promoter, shown it, chooses the space that it was decoded from",
        shapes="decoded",
        expert=True,
    )
    regenerator_candidates: str = setting(
        "source",
        "what its loss compares an item of a pattern with: the items of its source, as published, or all",
        choices=("source", "catalogue"),
        shapes="regenerator",
        expert=True,
    )
    regenerator_width: int = setting(
        64,
        "width of the regenerator and of the SASRec it starts from, even",
        low=2,
        shapes="teacher regenerator",
        expert=True,
    )
    regenerator_inner: int = setting(
        256, "its width inside the feed-forward networks", low=1, shapes="regenerator", expert=True
    )
    regenerator_dropout: float = setting(0.5, "its dropout", low=0, high=1, shapes="regenerator", expert=True)
    regenerator_epochs: int = setting(40, "epochs of its training", low=1, shapes="regenerator", fixed=EPOCHS)
    regenerator_learning_rate: float = setting(
        1e-3, "learning rate of its training", low=0, shapes="regenerator", expert=True
    )
    regenerator_checkpoint: str | None = setting(
        None,
        "a trained regenerator to use instead of training one",
        shapes="regenerator",
        path=True,
        expert=True,
        fixed="it is one file for all trials",
    )
    balance_weight: float = setting(
        1.0,
        "weight of the term that keeps the spaces equally used; 0 = as published",
        low=0,
        shapes="regenerator",
        expert=True,
    )
    teacher_epochs: int = setting(
        20, "epochs of the SASRec whose item vectors it starts from", low=1, shapes="teacher", expert=True
    )

    @property
    def origins(self) -> tuple[str, ...]:
        """Names of the origins that train."""
        return split_origins(self.regenerate_origins)


@dataclass(frozen=True)
class PersonalisationSettings:
    """Personalisation of the training data, DR4SR+ (docs/method.md, section 2)."""

    personalize: str = setting(
        "none",
        "learn how much each regenerated target counts for the backbone: bilevel, or end-to-end with it",
        choices=("none", "bilevel", "end-to-end"),
        shapes="backbone",
    )
    personalize_origins: str = setting(
        "pattern+regenerated",
        "rows of which origin are weighed, joined by +; others count 1. The authors' files weigh "
        "original+regenerated",
        shapes="backbone",
        expert=True,
    )
    personalize_variant: str = setting(
        "paper",
        "how weights are learned, as in the paper or the authors' code (docs/method.md, section 7)",
        choices=("paper", "released"),
        shapes="backbone",
        expert=True,
    )
    personalize_warmup: int = setting(
        10, "epochs before the weights are first judged", low=0, shapes="backbone", expert=True
    )
    personalize_interval: int = setting(
        30, "steps from one judgement of the weights to the next", low=1, shapes="backbone", expert=True
    )
    personalize_learning_rate: float = setting(
        1e-3, "learning rate of what weighs", low=0, shapes="backbone", expert=True
    )

    @property
    def as_released(self) -> bool:
        """Whether weights are learned as in the authors' code."""
        return self.personalize_variant == "released"

    @property
    def weighed_origins(self) -> tuple[str, ...]:
        """Names of the origins that are weighed."""
        return split_origins(self.personalize_origins)


@dataclass(frozen=True)
class BankSettings:
    """The memory bank (docs/method.md, section 4)."""

    memory_source: str = setting(
        "enumerate", "what is remembered", choices=("enumerate", "patterns", "both"), shapes="bank"
    )
    memory_data: str = setting(
        "original",
        "training data that is remembered",
        choices=("original", "regenerated"),
        shapes="bank",
        expert=True,
    )
    memory_scope: str = setting(
        "any", "past: only memories older than the query's target", choices=("any", "past"), shapes="raft"
    )
    extend_with_validation: bool = setting(
        True, "add the validation pairs to the bank before the test", shapes="test_bank", fixed=MEASURE
    )
    index_type: str = setting(
        "IVFFlat",
        "search index; Torch = exact search by matrix products",
        choices=("Flat", "IVFFlat", "HNSW", "Torch"),
        shapes="bank",
    )
    nlist: int = setting(0, "lists of IVFFlat; 0 = about 4 sqrt(memories)", low=0, shapes="bank", expert=True)
    nprobe: int = setting(0, "lists searched; 0 = automatic", low=0, shapes="bank", expert=True)


@dataclass(frozen=True)
class RaftSettings:
    """Retrieval-augmented fine-tuning (docs/method.md, section 5)."""

    fusion: str = setting(
        "raserec+transitions",
        "how memories are used (docs/method.md, section 5): fused into the user's state, mixed into the "
        "scores, or both, joined by +",
        choices=(*FUSIONS, *(f"{fuses}+{mixes}" for fuses in FUSIONS for mixes in MIXED), *MIXED, "none"),
        shapes="raft",
    )
    alpha: float = setting(
        0.5,
        "weight of the user's own state against what is fused into it",
        low=0,
        high=1,
        shapes="raft",
        while_training=True,
    )
    mixture_weight: float = setting(
        0.8,
        "weight of the scores' softmax against what is mixed into it",
        low=0.01,
        high=1,
        shapes="raft",
    )
    choose_weights: bool = setting(
        True,
        "after training, choose alpha and mixture_weight on validation: 1, the backbone, unless another is "
        "better beyond two standard errors; a weight that is given stays as it is",
        shapes="raft",
    )
    beta: float = setting(
        1.0,
        "weight of the channel that attends states; 1 - beta attends targets",
        low=0,
        high=1,
        shapes="raft",
        while_training=True,
        expert=True,
    )
    n_neighbors: int = setting(
        20, "memories fused into a state (K)", low=1, shapes="raft", while_training=True
    )
    ram_heads: int = setting(2, "heads of the cross-attention", low=1, shapes="raft", expert=True)
    attn_tau: float = setting(
        1.0,
        "softmax temperature of the cross-attention",
        low=1e-6,
        shapes="raft",
        while_training=True,
        expert=True,
    )
    ram_dropout: float = setting(
        0.5,
        "dropout of the retrieval-augmented module",
        low=0,
        high=1,
        shapes="raft",
        while_training=True,
        expert=True,
    )
    finetune: str = setting(
        "ram", "what learns: the module alone, or the backbone too", choices=("ram", "all"), shapes="raft"
    )
    raft_epochs: int = setting(100, "most epochs of fine-tuning", low=1, shapes="raft", fixed=EPOCHS)
    raft_batch_size: int = setting(
        1024, "targets per step of fine-tuning", low=1, shapes="raft", while_training=True, expert=True
    )
    raft_learning_rate: float = setting(
        3e-3, "learning rate of fine-tuning", low=0, shapes="raft", while_training=True
    )
    raft_weight_decay: float = setting(
        0.0, "L2 penalty of fine-tuning", low=0, shapes="raft", while_training=True, expert=True
    )
    raft_stopping_step: int = setting(
        10,
        "epochs in a row that may gain less than stopping_margin; one more ends fine-tuning",
        low=0,
        shapes="raft",
        fixed=EPOCHS,
    )

    @property
    def fuses(self) -> str:
        """Name of the fusion of states, or nothing."""
        return self._part(FUSIONS)

    @property
    def mixes(self) -> str:
        """Name of the mixture, or nothing."""
        return self._part(MIXED)

    @property
    def unread(self) -> frozenset[str]:
        """Settings of fine-tuning, and of the weights, that the fusion has no use for."""
        found: set[str] = set()
        if not self.fuses:
            found = {name for name in vars(self) if name.startswith(("raft_", "ram_"))}
            found |= {"alpha", "beta", "attn_tau", "finetune"}
        return frozenset(found if self.mixes else {*found, "mixture_weight"})

    def _part(self, names: tuple[str, ...]) -> str:
        return next((part for part in self.fusion.split("+") if part in names), "")


@dataclass(frozen=True)
class RunSettings:
    """Where a run reads and writes, and how it is executed."""

    output_dir: str = setting("runs", "folder that receives one folder per run")
    save_model: bool = setting(
        True, "keep a recommender in the run's folder, for recommend, explain and add (docs/recommending.md)"
    )
    export_dir: str | None = setting(
        None, "where a regenerated data set is written (model DR4SR: by default below the run's folder)"
    )
    overwrite: bool = setting(False, "replace what lies at export_dir")
    backbone_checkpoint: str | None = setting(
        None,
        "a trained backbone to use instead of training one",
        shapes="backbone",
        path=True,
        fixed="it is one file for all trials",
    )
    resume: bool = setting(False, "continue a killed run from its last finished epoch")
    workers: int = setting(
        1, "processes that train the backbone, decode and encode together; more than 1 needs Ray", low=1
    )
    address: str | None = setting(
        None, "auto or host:port: a running Ray cluster for these; by default Ray starts on this machine"
    )
    reuse: bool = setting(True, "use the results of stages whose inputs have not changed")


GROUPS: dict[str, Any] = {
    "feed": FeedSettings,
    "optim": OptimSettings,
    "scoring": ScoringSettings,
    "patterns": PatternSettings,
    "regeneration": RegenerationSettings,
    "personalisation": PersonalisationSettings,
    "bank": BankSettings,
    "raft": RaftSettings,
    "run": RunSettings,
}
"""Settings of ours by the name that a configuration has them under."""

OUR_SETTINGS = tuple(GROUPS.values())

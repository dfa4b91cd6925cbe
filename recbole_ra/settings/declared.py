"""Every setting of ours, declared once."""

from __future__ import annotations

from dataclasses import dataclass

from recbole_ra.core.setting import setting


@dataclass(frozen=True)
class FeedSettings:
    """How training batches are composed (see ``docs/training.md`` for what was measured)."""

    targets_per_pass: int = setting(
        4, "targets of one user that share one pass of a causal encoder; 1 = prefix rows", low=1
    )
    length_groups: int = setting(8, "groups of like length inside a batch", low=1)


@dataclass(frozen=True)
class OptimSettings:
    """Optimisation beyond RecBole's own settings."""

    ema_decay: float = setting(
        0.998,
        "a running average of the weights is validated and kept: its decay a step, 0 = off",
        low=0,
        high=0.99999,
    )


@dataclass(frozen=True)
class BankSettings:
    """The memory bank (docs/method.md, section 4)."""

    memory_source: str = setting("enumerate", "what is remembered", choices=("enumerate", "patterns", "both"))
    index_type: str = setting(
        "IVFFlat",
        "search index; Torch = exact search by matrix products",
        choices=("Flat", "IVFFlat", "HNSW", "Torch"),
    )
    nlist: int = setting(0, "lists of IVFFlat; 0 = about 4 sqrt(memories)", low=0)
    nprobe: int = setting(0, "lists searched; 0 = automatic", low=0)
    memory_scope: str = setting(
        "any", "past: only memories older than the query's target", choices=("any", "past")
    )
    extend_with_validation: bool = setting(True, "add the validation pairs to the bank before the test")
    memory_data: str = setting(
        "original", "training data that is remembered", choices=("original", "regenerated")
    )


@dataclass(frozen=True)
class PatternSettings:
    """Mining of frequent patterns, for the bank and for regeneration (docs/method.md, section 1.1)."""

    window: int = setting(5, "positions that a mined pattern spans at most", low=2)
    min_support: int = setting(2, "sequences that must hold a mined pattern", low=1)


@dataclass(frozen=True)
class RegenerationSettings:
    """Regeneration of the training data, DR4SR (docs/method.md, section 1)."""

    regenerate: str = setting(
        "none", "training data: none, dr4sr, patterns, or what `recbole-ra regenerate` wrote"
    )
    regenerate_origins: str = setting(
        "original+pattern+regenerated", "rows of which origin train, joined by +"
    )
    original_copies: int = setting(1, "how often its originals stand in the training data", low=1)
    pairs_per_sequence: int = setting(10, "patterns paired with a sequence at most", low=1)
    n_latents: int = setting(5, "latent spaces of the regenerator (P)", low=1)
    diversity: bool = setting(True, "off: a plain Transformer without latent spaces and promoter")
    gamma: float = setting(0.5, "probability that a decoding step may take any item", low=0, high=1)
    hybrid: str = setting(
        "coin", "released: two restrictive steps, then generative ones only", choices=("coin", "released")
    )
    decode_length: int = setting(25, "items of a decoded sequence at most", low=2)
    fidelity_rank: int = setting(
        0, "keep a decoded item only if SASRec ranks it this high after those before it; 0 = off", low=0
    )
    encoder_mask: str = setting(
        "none", "released: a causal mask while training only", choices=("none", "released")
    )
    regenerator_candidates: str = setting(
        "source",
        "what its loss tells an item of a pattern from: the items of its source, as published, or all items",
        choices=("source", "catalogue"),
    )
    regenerator_width: int = setting(64, "width of the regenerator and of the SASRec it starts from", low=1)
    regenerator_layers: int = setting(2, "its blocks, in encoder and in decoder", low=1)
    regenerator_heads: int = setting(2, "its attention heads", low=1)
    regenerator_inner: int = setting(256, "its width inside the feed-forward networks", low=1)
    regenerator_dropout: float = setting(0.5, "its dropout", low=0, high=1)
    regenerator_epochs: int = setting(40, "epochs of its training", low=1)
    regenerator_batch_size: int = setting(256, "pairs a step of its training", low=1)
    regenerator_learning_rate: float = setting(1e-3, "learning rate of its training", low=0)
    regenerator_schedule: str = setting(
        "cosine",
        "learning rate; released: a cosine of steps whose period is counted in epochs",
        choices=("cosine", "constant", "released"),
    )
    regenerator_dev_share: float = setting(
        0.05, "share of the training users whose pairs select its epoch; 0 = keep the last", low=0, high=0.5
    )
    regenerator_checkpoint: str | None = setting(None, "a trained regenerator to use instead of training one")
    entropy_weight: float = setting(1.0, "weight of the term that pushes a pattern into one space", low=0)
    balance_weight: float = setting(
        1.0, "weight of the term that keeps the spaces equally used; 0 = as published", low=0
    )
    gumbel_tau: float = setting(1.0, "temperature of its choice of a space, at the start", low=1e-6)
    gumbel_tau_min: float = setting(0.1, "and at the end", low=1e-6)
    gumbel_decay: float = setting(0.995, "factor of the temperature a step", low=1e-6, high=1)
    teacher_epochs: int = setting(20, "epochs of the SASRec whose item vectors it starts from", low=1)

    @property
    def origins(self) -> tuple[str, ...]:
        """Names of the origins that take part."""
        return tuple(self.regenerate_origins.lower().split("+"))


@dataclass(frozen=True)
class RaftSettings:
    """Retrieval-augmented fine-tuning (docs/method.md, section 5)."""

    alpha: float = setting(0.5, "weight of the user's own state", low=0, high=1)
    beta: float = setting(
        1.0, "weight of the channel that attends states; 1 - beta attends targets", low=0, high=1
    )
    n_neighbors: int = setting(20, "memories fused into a state (K)", low=1)
    n_heads: int = setting(2, "heads of the cross-attention, and of a Transformer backbone", low=1)
    attn_tau: float = setting(1.0, "softmax temperature of the cross-attention", low=1e-6)
    ram_dropout: float = setting(0.5, "dropout of the retrieval-augmented module", low=0, high=1)
    finetune: str = setting(
        "ram", "what learns: the module alone, or the backbone too", choices=("ram", "all")
    )
    raft_epochs: int = setting(100, "most epochs of fine-tuning", low=1)
    raft_batch_size: int = setting(1024, "targets a step of fine-tuning", low=1)
    raft_learning_rate: float = setting(3e-3, "learning rate of fine-tuning", low=0)
    raft_stopping_step: int = setting(
        5, "epochs without a better validation result before fine-tuning stops", low=0
    )


@dataclass(frozen=True)
class RunSettings:
    """Where a run reads and writes."""

    output_dir: str = setting("runs", "folder that receives one folder a run")
    export_dir: str | None = setting(
        None, "where a regenerated data set is written (model DR4SR: by default below the run's folder)"
    )
    overwrite: bool = setting(False, "replace what lies at export_dir")
    backbone_checkpoint: str | None = setting(None, "a trained backbone to use instead of training one")
    resume: bool = setting(False, "continue a killed run from its last finished epoch")
    workers: int = setting(
        1, "processes that train the backbone, decode and encode together; more than 1 needs Ray", low=1
    )
    address: str | None = setting(
        None, "auto or host:port: a running Ray cluster for these; by default Ray starts on this machine"
    )
    reuse: bool = setting(True, "use the results of stages whose inputs have not changed")


OUR_SETTINGS = (
    FeedSettings,
    OptimSettings,
    PatternSettings,
    RegenerationSettings,
    BankSettings,
    RaftSettings,
    RunSettings,
)

"""GRU4Rec (Hidasi et al., ICLR 2016), RecBole's architecture: a GRU, and a projection to the items' width."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from recbole_ra.core.setting import setting
from recbole_ra.models.backbone import EncoderBackbone
from recbole_ra.models.dropout import Dropout
from recbole_ra.models.losses import LossSettings


@dataclass(frozen=True)
class GRU4RecSettings(LossSettings):
    """Architecture of GRU4Rec; names are RecBole's, width and dropout did better (docs/results.md)."""

    embedding_size: int = setting(
        64, "width of states and item vectors", low=1, shapes="backbone", expert=True
    )
    hidden_size: int = setting(256, "width inside the GRU", low=1, shapes="backbone", expert=True)
    num_layers: int = setting(1, "layers of the GRU", low=1, shapes="backbone", expert=True)
    dropout_prob: float = setting(
        0.5, "dropout of item vectors", low=0, high=1, shapes="backbone", while_training=True, expert=True
    )


class GRU4Rec(EncoderBackbone):
    """A recurrent encoder; one pass gives the state of every prefix.

    Parameters
    ----------
    n_items : int
        Size of the vocabulary, padding included.
    max_length : int
        Longest history.
    settings : GRU4RecSettings
    """

    Settings = GRU4RecSettings
    source = "Hidasi et al., ICLR 2016; RecBole's architecture"
    width_setting = "embedding_size"

    def __init__(self, n_items: int, max_length: int, settings: GRU4RecSettings) -> None:
        width = settings.embedding_size
        super().__init__(n_items, max_length, width, settings)
        self.item_embedding = nn.Embedding(n_items, width, padding_idx=0)
        self.dropout = Dropout(settings.dropout_prob)
        self.gru = nn.GRU(
            width, settings.hidden_size, num_layers=settings.num_layers, bias=False, batch_first=True
        )
        self.dense = nn.Linear(settings.hidden_size, width)
        nn.init.xavier_normal_(self.item_embedding.weight)
        for name, weight in self.gru.named_parameters():
            if name.startswith("weight"):
                nn.init.xavier_uniform_(weight)

    def encode(self, items: Tensor, at: Tensor | None = None, first: Tensor | None = None) -> Tensor:
        """[B, L] -> [B, L, D], or [B, P, D] at the positions ``at`` [B, P]; ``first`` says it nothing."""
        states, _ = self.gru(self.dropout(self.item_embedding(items)))
        if at is not None:
            states = states.gather(1, at[:, :, None].expand(-1, -1, states.shape[2]))
        return self.dense(states)

    @property
    def item_table(self) -> Tensor:
        """The vectors that states are scored against, shape [N, D]."""
        return self.item_embedding.weight

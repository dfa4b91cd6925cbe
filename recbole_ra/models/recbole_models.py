"""RecBole's own sequential models as backbones: the state and the item table are observed."""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import AbstractRecommender
from torch import Tensor
from torch.overrides import TorchFunctionMode

from recbole_ra.core.errors import SettingsError
from recbole_ra.data.dataset import Fields
from recbole_ra.models.recommenders import SequentialModel


class _LastProduct(TorchFunctionMode):
    """Remembers the factors of the last matrix product whose result has one column per item."""

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.n_items = n_items
        self.factors: tuple[Tensor, Tensor] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        products = (torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__)
        if func in products and result.dim() == 2 and result.shape[1] == self.n_items and args[1].dim() == 2:
            self.factors = (args[0], args[1].T)
        return result


class RecBoleRecommender(SequentialModel):
    """A sequential model of RecBole's whose state and item table are observed, not known.

    RecBole's models end ``full_sort_predict`` in a product of a state with an item table, but each
    names and prepares them in its own way. The product is observed while the model scores, and it
    is checked that it explains the scores up to a constant factor and a constant for each item.

    Raises
    ------
    SettingsError
        If the model does not score by an inner product.
    """

    def __init__(self, model: AbstractRecommender, n_items: int, fields: Fields, probe: Interaction) -> None:
        super().__init__()
        self.model = model
        self.fields = fields
        self.n_items = n_items
        self._table = torch.empty(0)
        self.model.eval()
        with torch.no_grad():
            self._scale, bias = self._explain(probe)
            self.register_buffer("_bias", bias)
            self.represent(probe)

    def _observe(self, interaction: Any) -> tuple[Tensor, Tensor, Tensor]:
        with _LastProduct(self.n_items) as seen:
            scores = self.model.full_sort_predict(interaction)
        if seen.factors is None:
            raise self._refusal()
        return scores.view(-1, self.n_items), *seen.factors

    def _refusal(self) -> SettingsError:
        name = type(self.model).__name__
        return SettingsError(
            f"Ra{name}: {name} does not score by an inner product of a state and an item vector, so no "
            f"memory can be fused into it; --model={name} trains it alone"
        )

    def _explain(self, probe: Interaction) -> tuple[float, Tensor | None]:
        """Factor and item constants that turn the observed product into the scores."""
        try:
            scores, states, table = self._observe(probe)
        except NotImplementedError as error:
            raise self._refusal() from error
        scores, product = scores[:, 1:].double(), (states @ table.T)[:, 1:].double()
        # Constants of items cancel in the differences between rows.
        across, observed = product - product.mean(0), scores - scores.mean(0)
        spread = across.square().sum()
        scale = float((across * observed).sum() / spread) if spread > 0 else 1.0
        rest = scores - scale * product
        bias = rest.mean(0)
        largest = float(scores.abs().max())
        if not (rest - bias).abs().max() <= 1e-3 * largest + 1e-6:
            raise self._refusal()
        if bias.abs().max() <= 1e-5 * largest:  # rounding
            return scale, None
        return scale, torch.cat([bias.new_zeros(1), bias]).float()

    def represent(self, interaction: Any) -> Tensor:
        """Return the state of each row, shape [B, D]."""
        _, states, table = self._observe(interaction)
        self._table = table * self._scale
        return states

    @property
    def item_table(self) -> Tensor:
        """Item vectors as of the last call of :meth:`represent`, shape [N, D]."""
        return self._table

    @property
    def item_bias(self) -> Tensor | None:
        """Constant part of each item's score, shape [N], or None."""
        return self._bias

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Return the model's own loss."""
        return self.model.calculate_loss(interaction)

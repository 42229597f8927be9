"""Prices for choosing between GPU types and for counting money: the administrator's table first, the catalogue's relative prices beside it."""

from __future__ import annotations

from statistics import median
from typing import Final

from finetune_operator.api.prices import NO_PRICES, Prices
from finetune_operator.planner.catalogue import gpu_of
from finetune_operator.planner.gpu_table import Gpu


class PriceList:
    """A table of prices, ready to be asked for every candidate."""

    def __init__(self, prices: Prices) -> None:
        self.currency: Final = prices.currency
        self._known = dict(prices.per_gpu_hour)
        ratios = [price / gpu_of(product).price for product, price in prices.per_gpu_hour.items()]
        self._scale = median(ratios) if ratios else 1.0

    @property
    def is_empty(self) -> bool:
        """Whether nobody has said what anything costs."""
        return not self._known

    def per_hour(self, product: str | None) -> float | None:
        """Return the money for one GPU and hour, or None where the table lacks the type (a slice or a shared GPU is a product of its own)."""
        return self._known.get(product) if product is not None else None

    def weight(self, product: str | None, gpu: Gpu) -> float:
        """Return what an hour counts when types are compared: its price, or the catalogue's, scaled to the table's level."""
        price = self.per_hour(product)
        return gpu.price * self._scale if price is None else price


EMPTY_PRICE_LIST: Final = PriceList(NO_PRICES)
"""Only the catalogue's relative prices."""

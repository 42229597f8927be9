"""What GPUs cost, as the cluster's administrator says: the table that plans choose by and count money with."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from finetune_operator.api.model import ApiModel

Price = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Prices(ApiModel):
    """Money per GPU and hour; an empty table leaves the catalogue's relative prices, which are for choosing only."""

    currency: str = Field("", max_length=16, description="Shown behind amounts, such as EUR; nothing is converted.")
    per_gpu_hour: dict[str, Price] = Field(
        default_factory=dict, description="By product as node label nvidia.com/gpu.product shows it."
    )


NO_PRICES: Final = Prices()

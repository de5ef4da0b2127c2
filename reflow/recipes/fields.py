"""What a section of a recipe is: strict and frozen, with the kinds of numbers that stand in it.

This module does not import torch.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Time = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """One section of a recipe."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

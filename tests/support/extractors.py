"""A network of features for tests."""

from torch import Tensor, nn


class Flatten(nn.Module):
    """Takes the place of the Inception network: the features are the pixels."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.num_features = features

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)

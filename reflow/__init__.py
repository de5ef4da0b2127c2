"""reflow: from images to a one-evaluation generator, by rectified flow.

`load_model` and `integrate` are the public Python interface. They are resolved on first use, so
that importing the package (and asking the command line for help) does not import torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reflow.models import load_model as load_model
    from reflow.solvers import integrate as integrate

__version__ = "0.1.0"
__all__ = ["__version__", "integrate", "load_model"]


def __getattr__(name: str) -> Any:
    if name == "load_model":
        from reflow.models import load_model

        return load_model
    if name == "integrate":
        from reflow.solvers import integrate

        return integrate
    raise AttributeError(f"module 'reflow' has no attribute {name!r}")

"""Semi-supervised nnU-Net for few labels and many scans.

A folder imports only from folders before it (tests/unit/test_architecture.py holds it)::

    errors ─► workspace ─► recipe ─► data ─► method ─► nnunet
        ─► planning ─► training ─► inference ─► evaluation ─► annotation ─► report ─► benchmark ─► api ─► cli

``method`` is mathematics on tensors and arrays; ``nnunet`` alone imports nnunetv2. docs/architecture.md draws the flow.
The Python API is :func:`plan`, :func:`pretrain`, :func:`train`, :func:`predict` and :func:`evaluate`: see
docs/python-api.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pcl_auto import errors

if TYPE_CHECKING:
    from pcl_auto.api import evaluate, plan, predict, pretrain, train

__all__ = ["errors", "evaluate", "plan", "predict", "pretrain", "train"]

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Import the Python API when it is first used (PEP 562): ``import pcl_auto`` stays light."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pcl_auto import api

    return getattr(api, name)


def __dir__() -> list[str]:
    """List the API beside what is imported already."""
    return sorted({*globals(), *__all__})

"""Semi-supervised nnU-Net for few labels and many scans.

A folder imports only from folders before it (tests/unit/test_architecture.py holds it)::

    errors ─► workspace ─► recipe ─► data ─► method ─► nnunet
        ─► planning ─► training ─► inference ─► evaluation ─► annotation ─► report ─► benchmark ─► cli

``method`` is mathematics on tensors and arrays; ``nnunet`` alone imports nnunetv2. docs/architecture.md draws the flow.
"""

__version__ = "0.1.0"

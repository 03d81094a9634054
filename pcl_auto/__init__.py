"""Semi-supervised nnU-Net for few labels and many scans.

The package flows in one direction; a module imports only from what stands before it here (a test checks it)::

    errors, recipe ─► run ─► budget ─► data ─► method ─► rounds ─► nnunet ─► machine ─► planning ─► request ─► models
        ─► forecast ─► training ─► masks ─► orientation ─► preview ─► predict ─► dry_run ─► evaluate ─► scores
        ─► benchmark ─► report ─► demo ─► review ─► continuation ─► suggest ─► status ─► cli

``method`` knows tensors and arrays only. ``nnunet`` is the only package that imports nnunetv2. ``rounds`` tells the
self-training story to whatever can learn; the trainer in ``nnunet`` is such a learner.
"""

__version__ = "0.1.0"

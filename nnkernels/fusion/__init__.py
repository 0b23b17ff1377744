"""Fused functions: an elementwise Python function as one kernel.

``trace`` turns the function into a ``Program`` (``expression``), ``emit`` that into a C++ functor,
``functor`` and ``fuse`` run it through the elementwise dispatcher; ``derivative`` makes the program
of the gradient.
"""

"""The commands of ``python -m nnkernels``."""

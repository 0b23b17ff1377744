"""The specification of every operation in NumPy, one module for each family."""

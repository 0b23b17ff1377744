"""The functions that users call, one module for each family."""

"""How arrays of any library, dtype and stride become a kernel problem."""

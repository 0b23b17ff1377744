"""What the compilers make of the kernels: registers, spills, memory accesses; no GPU needed."""

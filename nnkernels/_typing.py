"""Names for type hints."""

from __future__ import annotations

from typing import Any, TypeAlias

# A CuPy or NumPy array, or any array with DLPack on CPU or CUDA: no common static type exists.
Array: TypeAlias = Any
# A dtype of the array's library, a NumPy dtype or its name.
DTypeLike: TypeAlias = Any

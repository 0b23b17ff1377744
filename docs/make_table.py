"""Write the registry's table of ops into README.md, between its two markers."""

from __future__ import annotations

from pathlib import Path

from nnkernels.registry.table import markdown

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- table of ops: begin -->\n", "<!-- table of ops: end -->"


def main() -> None:
    """Replace the table."""
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    README.write_text(f"{before}{BEGIN}{markdown()}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()

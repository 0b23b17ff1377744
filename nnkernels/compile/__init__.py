"""How a template instance becomes machine code."""

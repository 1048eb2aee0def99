"""phi4: make small reasoning models by the Phi-4 recipe, and run them."""

__version__ = "0.1.0"

"""stepwell: distil a small, fast dense retriever from a ladder of ever stronger teachers."""

__version__ = "0.1.0.dev0"

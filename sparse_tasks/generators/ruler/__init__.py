"""RULER's synthetic tasks, three of them in the form of The Sparse Frontier."""

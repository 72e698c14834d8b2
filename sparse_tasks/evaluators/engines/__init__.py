"""The engines that answer prompts: one per file, with one interface (``engine.py``)."""

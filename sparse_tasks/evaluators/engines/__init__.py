"""The engines that answer prompts: one a file, one interface (``engine.py``)."""

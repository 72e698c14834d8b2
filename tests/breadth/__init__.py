"""Which of vLLM's architectures run with sparse attention: ``python -m tests.breadth`` tries them all."""

"""Questions on documents: SQuAD, QuALITY, TOEFL-QA and HotpotQA where their texts are at hand, and made articles."""

from sparse_tasks.generators.qa import biographies, hotpotqa, quality, squad, toefl

__all__ = ["biographies", "hotpotqa", "quality", "squad", "toefl"]

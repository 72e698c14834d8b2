"""Questions on documents: SQuAD, QuALITY, TOEFL-QA and HotpotQA, if available, and generated articles."""

"""Questions on documents: SQuAD, QuALITY, TOEFL-QA and HotpotQA where their texts are at hand, and made articles."""

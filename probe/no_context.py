"""Answers of a model that sees the question but not the context: what it knows without reading.

Usage: no_context.py DATA MODEL OUTPUTS [SAMPLES]

OUTPUTS is a file for ``sparse-tasks evaluate DATA --engine replay --model OUTPUTS``. A probe that has learned to read,
rather than frequent answers, scores almost nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparse_tasks.core.tokenizers import load_tokenizer
from sparse_tasks.evaluators.models import find_model

MOST = 300  # tokens of an answer, steps included


@torch.no_grad()
def main(data: Path, name: str, outputs: Path, samples: int) -> None:
    """Answer the first samples of each file, a file at a time."""
    folder = find_model(name).source
    tokenizer, loaded = AutoTokenizer.from_pretrained(folder, padding_side="left"), load_tokenizer(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().to(device)
    with outputs.open("w", encoding="utf-8") as file:
        for path in sorted(data.glob("*/*.parquet")):
            rows = pq.read_table(path, columns=["id", "prompt", "context"]).slice(0, samples).to_pylist()
            texts = [loaded.render(row["prompt"].replace(row["context"], "", 1)) for row in rows]
            batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(device)
            written = model.generate(**batch, max_new_tokens=MOST, do_sample=False)
            for row, ids in zip(rows, written[:, batch["input_ids"].shape[1] :], strict=True):
                file.write(
                    json.dumps({"id": row["id"], "text": tokenizer.decode(ids, skip_special_tokens=True)}) + "\n"
                )
            print(path.name, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else 100)

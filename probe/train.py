"""Fine-tunes SmolLM2-135M on the parts that data.py made, and packs the change as int8 factors of low rank.

Usage: torchrun --nproc-per-node GPUS train.py BASE WORK

BASE is a folder of a checkpoint or a GGUF file. Training starts from it, or from the change in the file ``FROM``, the
result of an earlier training. All weights except the embedding are trained for ``TRAIN`` seconds; the change of each
matrix is cut to the components that fit into ``BYTES``; the factors are trained for ``REPAIR`` more seconds to
compensate for the cut. The loss covers only the outputs. Every ``SAVE`` seconds WORK/checkpoint.pt is written, from
which a stopped run resumes, and WORK/snapshot.safetensors, the change so far in twice the bytes, from which another
host can start (``FROM``); parts made in the meantime are added. WORK/probe.safetensors is the result. Then every test
sample is answered greedily: WORK/outputs-*.jsonl, which ``evaluate --engine replay`` scores.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

TRAIN: Final = float(os.environ.get("TRAIN", "600"))
REPAIR: Final = float(os.environ.get("REPAIR", "80"))
SAVE: Final = float(os.environ.get("SAVE", "300"))
BYTES: Final = int(os.environ.get("BYTES", "23000000"))
LEAST: Final = 4  # components of each matrix
PEAK: Final = float(os.environ.get("LR", "8e-4"))
MICRO: Final = int(os.environ.get("MICRO", "65536"))  # tokens of a forward pass
STEP: Final = int(os.environ.get("STEP", "65536"))  # tokens of a step on each GPU
ANSWERS: Final = int(os.environ.get("ANSWERS", "100"))  # answered test samples per task
MEASURED: Final = int(os.environ.get("MEASURED", "40"))  # test samples per task for comparing cuts
BATCH: Final = int(os.environ.get("BATCH", "64"))
FROM: Final = os.environ.get("FROM", "")
BOUNDS: Final = {"1k": 1536, "2k": 2816, "4k": 4992, "8k": 9088}
"""Most tokens of a question and its output, by length; batches are as wide, so that a layer is compiled four times."""
# Token weights of lengths, up to a share of the time, the short ones first. Lengths without a part are left out.
MIXES: Final[list[tuple[float, dict[str, float]]]] = [
    (0.10, {"1k": 0.35, "2k": 0.65}),
    (0.50, {"1k": 0.06, "2k": 0.26, "4k": 0.58, "8k": 0.10}),
    (1.00, {"2k": 0.09, "4k": 0.61, "8k": 0.30}),
]
RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
CUDA: Final = torch.cuda.is_available()
DEVICE: Final = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if CUDA else torch.device("cpu")
START: Final = float(os.environ.get("START", time.time()))


def say(*words: object) -> None:
    """Print once for all processes, with the time since the start."""
    if RANK == 0:
        print(f"{time.time() - START:.0f}s", *words, flush=True)


def located(base: Path) -> dict[str, str]:
    """Arguments by which transformers finds a checkpoint: a folder, or a GGUF file."""
    folder = base.parent if base.suffix == ".gguf" else base
    return {"pretrained_model_name_or_path": str(folder)} | ({} if folder == base else {"gguf_file": base.name})


def load(base: Path, dtype: torch.dtype) -> Any:
    """The model with the weights of ``base`` in bfloat16."""
    unpack = {"quantization_config": GgufConfig(dequantize=True)} if base.suffix == ".gguf" else {}
    model = AutoModelForCausalLM.from_pretrained(
        **located(base), dtype=torch.bfloat16, attn_implementation="sdpa", **unpack
    )
    return model.to(dtype)


class Part:
    """Encoded samples of similar length, distributed in an order that all processes share."""

    def __init__(self, ids: np.ndarray[Any, Any], starts: Any, prompt: Any, output: Any, width: int = 0) -> None:
        self.ids, self.starts, self.prompt, self.output = ids, starts, prompt, output
        self.width = width or -(-int((prompt + output).max()) // 128) * 128
        self.rows = max(1, MICRO // self.width)
        self._order: list[int] = []

    def batch(self, dealer: random.Random) -> tuple[Tensor, Tensor, Tensor]:
        """Ids ``[rows, width]``, flat positions before output tokens, and these tokens."""
        if len(self._order) < self.rows * WORLD:
            self._order = list(range(len(self.starts)))
            dealer.shuffle(self._order)
        dealt = [self._order.pop() for _ in range(self.rows * WORLD)]
        return self.rows_of(dealt[RANK::WORLD])

    def rows_of(self, samples: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """The batch of these samples."""
        ids = torch.zeros(len(samples), self.width, dtype=torch.long)
        places, labels = [], []
        for row, i in enumerate(samples):
            start, prompt, output = int(self.starts[i]), int(self.prompt[i]), int(self.output[i])
            whole = torch.from_numpy(self.ids[start : start + prompt + output].astype(np.int64))
            ids[row, : len(whole)] = whole
            places.append(torch.arange(prompt - 1, prompt + output - 1) + row * self.width)
            labels.append(whole[prompt:])
        return ids.to(DEVICE), torch.cat(places).to(DEVICE), torch.cat(labels).to(DEVICE)


def parts(paths: list[Path], bounds: dict[str, int]) -> dict[str, Part]:
    """The parts of some files, split by length at upper bounds; longer samples are left out. 0 means no bound."""
    files = [dict(np.load(path)) for path in paths]
    ids, prompt, output = (np.concatenate([file[name] for file in files]) for name in ("ids", "prompt", "output"))
    lengths = prompt + output
    starts = np.concatenate([[0], np.cumsum(lengths.astype(np.int64))[:-1]])
    cut, least = {}, 0
    for name, most in bounds.items():
        chosen = (lengths > least) & ((lengths <= most) | (most == 0))
        if chosen.any():
            cut[name] = Part(ids, starts[chosen], prompt[chosen], output[chosen], most)
        least = most
    return cut


def taught() -> dict[str, Part]:
    """The parts available so far, the same for all processes."""
    # In creation order; the first process determines their number.
    paths = sorted(WORK.glob("[!t]*.npz"), key=lambda path: (path.stat().st_mtime, path.name))
    return parts(paths[: int(agreed(len(paths)))], BOUNDS)


def output_loss(model: Any, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean loss over output tokens, and the model's predictions in their places."""
    ids, places, labels = batch
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=CUDA):
        hidden = model.model(input_ids=ids).last_hidden_state.flatten(0, 1)[places]
        logits = model.lm_head(hidden).float()
    return nn.functional.cross_entropy(logits, labels), logits.detach().argmax(-1)


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Set every gradient to its mean over the processes."""
    if WORLD > 1:
        flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        dist.all_reduce(flat)
        flat /= WORLD
        at = 0
        for p in parameters:
            if p.grad is not None:
                p.grad.copy_(flat[at : at + p.numel()].view_as(p))
                at += p.numel()


def agreed(value: float) -> float:
    """The value of the first process."""
    if WORLD == 1:
        return value
    told = torch.tensor([value], dtype=torch.float64, device=DEVICE)
    dist.broadcast(told, 0)
    return float(told)


def optimise(
    model: Any,
    seconds: float,
    mix_at: Callable[[float], dict[str, float]],
    rate_at: Callable[[float], float],
    optimiser: torch.optim.Optimizer,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
    save: Callable[[], None] = lambda: None,
    name: str = "train",
) -> None:
    """Run steps until the time is up, with hooks before and after each step, and one that saves."""
    train = taught()
    weights = [p for p in model.parameters() if p.requires_grad]
    dealer, means = random.Random(f"{name} {PROGRESS['step']}"), dict[str, Tensor]()
    began, saved, spent = time.time(), time.time(), PROGRESS["spent"] if name == "train" else 0.0
    while (share := agreed((spent + time.time() - began) / seconds)) < 1:
        mix = {part: weight for part, weight in mix_at(share).items() if part in train} or dict.fromkeys(train, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = rate_at(share) * min(1.0, (PROGRESS["step"] + 1) / 40) * group.get("factor", 1.0)
        chosen = dealer.choices(list(mix), weights=list(mix.values()), k=max(1, STEP // MICRO))
        for part in chosen:
            loss, _ = output_loss(model, train[part].batch(dealer))
            (loss / len(chosen)).backward()
            means[part] = loss.detach() if part not in means else means[part] * 0.95 + loss.detach() * 0.05
        average_gradients(weights)
        before()
        torch.nn.utils.clip_grad_norm_([p for g in optimiser.param_groups for p in g["params"]], 1.0)
        optimiser.step()
        after()
        model.zero_grad(set_to_none=True)
        PROGRESS["step"] += 1
        if PROGRESS["step"] % 25 == 0:
            say(name, f"step {PROGRESS['step']:.0f}", *(f"{part}:{float(x):.4f}" for part, x in sorted(means.items())))
        if name == "train" and agreed(time.time() - saved) > SAVE:
            PROGRESS["spent"] = spent + time.time() - began
            save()
            train, saved = taught(), time.time()
            say("parts", *(f"{part}: {len(one.starts)}" for part, one in train.items()))
    PROGRESS["spent"] = seconds


def checkpoint(model: Any, optimiser: torch.optim.Optimizer) -> None:
    """Write the state for resuming training."""
    if RANK == 0:
        state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "progress": PROGRESS}
        torch.save(state, WORK / "checkpoint.part")
        os.replace(WORK / "checkpoint.part", WORK / "checkpoint.pt")


def save(model: Any, optimiser: torch.optim.Optimizer, base: dict[str, Tensor]) -> None:
    """Write a checkpoint, and a snapshot for another host."""
    checkpoint(model, optimiser)
    so_far = Factors(model, base)
    so_far.begin(so_far.ranks(2 * BYTES))
    so_far.pack(model, WORK / "snapshot.safetensors")


PROGRESS: Final[dict[str, float]] = {"step": 0, "spent": 0.0}
WORK: Final = Path(sys.argv[2])


def mix_at(share: float) -> dict[str, float]:
    """Weights of the parts at a share of the time."""
    return next(mix for until, mix in MIXES if share < until)


def cosine(share: float) -> float:
    """Full rate for a sixth of the time, then a cosine decay to a fiftieth."""
    return PEAK * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * max(0.0, (share - 0.16) / 0.84))))


class Factors:
    """The change of each matrix as a product of two narrow ones, and their training."""

    def __init__(self, model: Any, base: dict[str, Tensor]) -> None:
        self.base = base
        self.matrices = {n: m.weight for n, m in model.named_modules() if isinstance(m, nn.Linear) and n in base}
        self.spectra: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        with torch.no_grad():
            for name, weight in self.matrices.items():
                self.spectra[name] = spectrum((weight - base[name]).float())
        self.factors: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}

    def ranks(self, budget: int) -> dict[str, int]:
        """Components of each matrix that explain most of the change for their bytes."""
        gains = sorted(
            (
                (float(s) ** 2 / sum(self.base[name].shape), name)
                for name, (_, values, _) in self.spectra.items()
                for s in values[LEAST:].tolist()
            ),
            reverse=True,
        )
        ranks = dict.fromkeys(self.spectra, LEAST)
        left = budget - sum((sum(self.base[name].shape) + 4) * LEAST for name in ranks)
        for _, name in gains:
            left -= sum(self.base[name].shape) + 4
            if left < 0:
                break
            ranks[name] += 1
        return ranks

    @torch.no_grad()
    def cut(self, ranks: dict[str, int] | None) -> None:
        """Cut the change of the model's matrices to these ranks; None for all of it."""
        for name, weight in self.matrices.items():
            left, values, right = self.spectra[name]
            r = len(values) if ranks is None else ranks[name]
            weight.copy_(self.base[name] + (left[:, :r] * values[:r]) @ right[:r])

    def begin(self, ranks: dict[str, int]) -> list[nn.Parameter]:
        """Parameters of the factors at these ranks."""
        for name, (left, values, right) in self.spectra.items():
            r, root = ranks[name], values[: ranks[name]].sqrt()
            # The fused optimiser needs gradients and parameters with the same memory layout.
            self.factors[name] = (
                nn.Parameter((left[:, :r] * root).contiguous()),
                nn.Parameter((root[:, None] * right[:r]).contiguous()),
            )
        return [factor for pair in self.factors.values() for factor in pair]

    @torch.no_grad()
    def before(self) -> None:
        """Propagate the gradients of the matrices to the factors."""
        for name, (left, right) in self.factors.items():
            gradient = self.matrices[name].grad
            left.grad = (gradient @ right.T).contiguous()
            right.grad = (left.T @ gradient).contiguous()

    @torch.no_grad()
    def after(self) -> None:
        """Set the matrices from the factors."""
        for name, (left, right) in self.factors.items():
            self.matrices[name].copy_(self.base[name] + left @ right)

    @torch.no_grad()
    def pack(self, model: Any, path: Path) -> None:
        """Write the factors in int8, with a scale per component, and round them accordingly."""
        packed: dict[str, Tensor] = {}
        for name, (left, right) in self.factors.items():
            for side, factor, axis in (("left", left, 0), ("right", right, 1)):
                scale = (factor.abs().amax(axis, keepdim=True) / 127).clamp_min(1e-6).half().float()
                whole = (factor / scale).round().clamp(-127, 127)
                packed[f"{name}.{side}"] = whole.to(torch.int8).contiguous().cpu()
                packed[f"{name}.{side}_scale"] = scale.flatten().half().cpu()
                factor.copy_(whole * scale)
        for name, weight in model.named_parameters():
            if weight.requires_grad and name.removesuffix(".weight") not in self.matrices:
                packed[name] = weight.to(torch.bfloat16).cpu()
        if RANK == 0:
            save_file(packed, path.with_suffix(".part"))
            os.replace(path.with_suffix(".part"), path)
            say(f"packed into {path.stat().st_size} bytes")


@torch.no_grad()
def add(model: Any, packed: dict[str, Tensor]) -> None:
    """Add the change written by ``Factors.pack`` to a model's weights."""
    for name, weight in model.named_parameters():
        matrix = name.removesuffix(".weight")
        if f"{matrix}.left" in packed:
            left = packed[f"{matrix}.left"].float() * packed[f"{matrix}.left_scale"].float()
            right = packed[f"{matrix}.right"].float() * packed[f"{matrix}.right_scale"].float()[:, None]
            weight.add_(left @ right)
        elif name in packed:
            weight.copy_(packed[name])


def spectrum(change: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular vectors and values, from the largest on, by the eigenvectors of the smaller Gram matrix."""
    wide = change.shape[0] <= change.shape[1]
    matrix = change if wide else change.T
    values, left = torch.linalg.eigh((matrix @ matrix.T).double())
    left = left.flip(1).float()
    values = values.flip(0).clamp_min(0).sqrt().float()
    right = (left.T @ matrix) / values.clamp_min(1e-12)[:, None]
    return (left, values, right) if wide else (right.T.contiguous(), values, left.T.contiguous())


@torch.no_grad()
def exact(model: Any, part: Part, chosen: list[int]) -> Tensor:
    """Whether greedy decoding would write each sample's output exactly, from one forward pass each: 0 or 1."""
    right = torch.zeros(len(part.starts), device=DEVICE)
    mine = chosen[RANK::WORLD]
    for first in range(0, len(mine), part.rows):
        samples = mine[first : first + part.rows]
        batch = part.rows_of(samples)
        with torch.compiler.set_stance("force_eager"):
            _, written = output_loss(model, batch)
        same, at = written == batch[2], 0
        for i in samples:
            right[i] = same[at : at + int(part.output[i])].all()
            at += int(part.output[i])
    if WORLD > 1:
        dist.all_reduce(right)
    return right.cpu()


def by_task(right: Tensor, chosen: list[int], tests: dict[str, np.ndarray[Any, Any]]) -> dict[str, float]:
    """Mean of the chosen samples of each task."""
    means = {}
    for number, name in enumerate(tests["tasks"].tolist()):
        values = [float(right[i]) for i in chosen if tests["task"][i] == number]
        if values:
            means[name] = round(sum(values) / len(values), 3)
    return means


def first_of_each(tests: dict[str, np.ndarray[Any, Any]], most: int) -> list[int]:
    """Numbers of the questions on the first samples of each task."""
    samples, chosen = Counter[int](), list[int]()
    for i, (task, name) in enumerate(zip(tests["task"].tolist(), tests["id"].tolist(), strict=True)):
        samples[task] += "#" not in name  # later questions have a number
        chosen += [i] if samples[task] <= most else []
    return chosen


@torch.no_grad()
def answer(
    model: Any, tests: dict[str, np.ndarray[Any, Any]], part: Part, tokenizer: Any, chosen: list[int], right: Tensor
) -> Iterator[dict[str, str]]:
    """Greedy outputs of this process's share of the samples; those known to be exact are not decoded."""
    end = tokenizer.eos_token_id
    for i in chosen[RANK::WORLD]:
        if right[i]:
            start = int(part.starts[i] + part.prompt[i])
            yield {
                "id": str(tests["id"][i]),
                "text": tokenizer.decode(part.ids[start : start + int(part.output[i]) - 1].tolist()),
            }
    rest = sorted((i for i in chosen if not right[i]), key=lambda i: int(part.output[i]))
    batches = [rest[first : first + BATCH] for first in range(0, len(rest), BATCH)]
    for samples in batches[RANK::WORLD]:
        width = int(part.prompt[samples].max())
        ids = torch.full((len(samples), width), end)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(samples):
            start, prompt = int(part.starts[i]), int(part.prompt[i])
            ids[row, width - prompt :] = torch.from_numpy(part.ids[start : start + prompt].astype(np.int64))
            mask[row, width - prompt :] = 1
        written = model.generate(
            input_ids=ids.to(DEVICE), attention_mask=mask.to(DEVICE), do_sample=False,
            max_new_tokens=int(1.25 * part.output[samples].max()) + 32, eos_token_id=end, pad_token_id=end,
        )  # fmt: skip
        for row, i in enumerate(samples):
            text = tokenizer.decode(written[row, width:], skip_special_tokens=True)
            yield {"id": str(tests["id"][i]), "text": text}
        say(f"answered {len(samples)} of {len(rest)} that are not exact")


def main() -> None:
    """Train, cut, repair, pack and answer."""
    if WORLD > 1:
        torch.cuda.set_device(DEVICE)
        dist.init_process_group("nccl" if CUDA else "gloo")
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    base_folder = Path(sys.argv[1])
    model = load(base_folder, torch.float32)
    model.to(DEVICE)
    model.config.use_cache = False
    model.get_input_embeddings().weight.requires_grad_(False)
    linear = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"}
    base = {name: module.weight.detach().clone() for name, module in linear.items()}
    if FROM:
        add(model, load_file(FROM, device=str(DEVICE)))
    say("loaded", *(f"{name}: {len(part.starts)} of {part.width} tokens" for name, part in taught().items()))
    if CUDA:
        torch._dynamo.config.recompile_limit = 64
        torch._dynamo.config.accumulated_recompile_limit = 4096
        for layer in model.model.layers:
            layer.compile(dynamic=False)
    weights = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in weights if p.ndim > 1], "weight_decay": 0.02},
        {"params": [p for p in weights if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.95), fused=True)
    if (WORK / "checkpoint.pt").exists():
        state = torch.load(WORK / "checkpoint.pt", map_location=DEVICE, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        PROGRESS.update(state["progress"])
    optimise(model, TRAIN, mix_at, cosine, optimiser, save=partial(save, model, optimiser, base))
    if SAVE < TRAIN:
        checkpoint(model, optimiser)
    del optimiser

    tests = {path.stem.removeprefix("test"): dict(np.load(path)) for path in sorted(WORK.glob("test*.npz"))}
    asked = {length: parts([WORK / f"test{length}.npz"], {"": 0})[""] for length in tests}
    report: dict[str, Any] = {"steps": PROGRESS["step"]}
    factors = Factors(model, base)
    length = next(iter(tests))
    few = first_of_each(tests[length], MEASURED)
    report["full"] = by_task(exact(model, asked[length], few), few, tests[length])
    say("full", report["full"])
    for size in (BYTES // 4, BYTES // 2, BYTES, 2 * BYTES) if MEASURED else ():
        factors.cut(factors.ranks(size))
        report[f"cut to {size}"] = by_task(exact(model, asked[length], few), few, tests[length])
        say(f"cut to {size}", report[f"cut to {size}"])
    ranks = factors.ranks(BYTES)
    report["ranks"] = ranks
    narrow = factors.begin(ranks)
    factors.after()
    repair = torch.optim.AdamW(
        [
            {"params": narrow, "weight_decay": 0.0},
            {"params": groups[1]["params"], "weight_decay": 0.0, "factor": 0.3},
        ],
        lr=PEAK, betas=(0.9, 0.95), fused=True,
    )  # fmt: skip
    optimise(
        model, REPAIR, lambda _: MIXES[-1][1], lambda share: 0.4 * PEAK * (1 - share) + 1e-5, repair,
        factors.before, factors.after, name="repair",
    )  # fmt: skip
    factors.pack(model, WORK / "probe.safetensors")
    factors.after()
    (WORK / "weights.done").touch()
    report["packed"] = by_task(exact(model, asked[length], few), few, tests[length])
    say("packed", report["packed"])
    del repair, factors, base
    state = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    del model
    whole = load(base_folder, torch.bfloat16)
    whole.load_state_dict(state)
    whole.to(DEVICE).eval()
    tokenizer = AutoTokenizer.from_pretrained(**located(base_folder))
    for length in tests:
        chosen = first_of_each(tests[length], ANSWERS)
        right = exact(whole, asked[length], chosen)
        report[f"packed, {length}"] = by_task(right, chosen, tests[length])
        say(f"packed, {length}", report[f"packed, {length}"])
        if RANK == 0:
            (WORK / "report.json").write_text(json.dumps(report, indent=1))
        with open(WORK / f"outputs-{length}-{RANK}.jsonl", "w", encoding="utf-8") as file:
            for line in answer(whole, tests[length], asked[length], tokenizer, chosen, right):
                file.write(json.dumps(line) + "\n")
                file.flush()
    if WORLD > 1:
        dist.barrier()
        dist.destroy_process_group()
    (WORK / "answers.done").touch()
    say("done")


if __name__ == "__main__":
    main()

"""Prompts that a model repeats before it reads them: what is scored, when, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from sparse_tasks.attention.huggingface import sparse_attention
from sparse_tasks.attention.index import Kept
from sparse_tasks.attention.methods.kvzip import KVzip
from sparse_tasks.attention.repeating import _encoded, cache_name
from sparse_tasks.core.errors import UsageError
from tests.attention.test_huggingface import generate, llama, tokens

CONTEXT, QUESTION = 120, 25

pytestmark = pytest.mark.filterwarnings("ignore:no kernel for cpu")


@pytest.fixture(scope="module")
def model() -> Any:
    return llama()


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Tensor], list[Kept]]]:
    """Scores and what stays of them, by layer, each time that the method chooses."""
    found: list[tuple[list[Tensor], list[Kept]]] = []
    keep_all = KVzip.keep_all

    def noted(self: KVzip, scores: list[Tensor], **options: Any) -> list[Kept]:
        found.append((scores, keep_all(self, scores, **options)))
        return found[-1][1]

    monkeypatch.setattr(KVzip, "keep_all", noted)
    return found


def repeated_twice(model: Any, ids: Tensor) -> tuple[Tensor, ...]:
    """The model's own attention to a prompt that holds it twice, ``[query_heads, 2 * n, 2 * n]`` of each layer."""
    model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            return tuple(of_layer[0] for of_layer in model(torch.cat([ids, ids], 1), output_attentions=True).attentions)
    finally:
        model.set_attn_implementation("sdpa")


def test_scores_are_the_largest_attention_of_a_second_reading(model: Any, chosen: list[Any]) -> None:
    """Without an instruction and in one chunk, it is that of a prompt that stands there twice."""
    ids, mask = tokens(CONTEXT)
    with sparse_attention(model, "kvzip", sparsity=0.8, impl="torch"):
        generate(model, ids, mask)
    ((scores, kept),) = chosen
    for of_layer, weights in zip(scores, repeated_twice(model, ids), strict=True):
        later = weights[:, CONTEXT:, :CONTEXT].reshape(2, 2, CONTEXT, CONTEXT)
        torch.testing.assert_close(of_layer, later.amax((1, 2)), rtol=1e-3, atol=1e-5)
    assert sum(int(of_layer.counts.sum()) for of_layer in kept) == 4 * CONTEXT // 5  # of 2 layers and 2 KV heads


def test_chunks_are_repeated_independently(model: Any, chosen: list[Any]) -> None:
    ids, mask = tokens(CONTEXT)
    arguments = {"kvzip.chunk": 60}
    with sparse_attention(model, "kvzip", sparsity=0.8, arguments=arguments, impl="torch"):
        generate(model, ids, mask)
    other = ids.clone()
    other[:, :40] = other[:, :40].flip(1)
    with sparse_attention(model, "kvzip", sparsity=0.8, arguments=arguments, impl="torch"):
        generate(model, ids, mask)
        generate(model, other, mask)
    (one, _), (again, _), (changed, _) = chosen
    assert [of_layer.shape for of_layer in one] == [(2, CONTEXT)] * 2
    assert all(torch.equal(x, y) for x, y in zip(one, again, strict=True))
    assert not torch.allclose(one[0], changed[0])


def test_kept_tokens_do_not_depend_on_the_question(model: Any, chosen: list[Any]) -> None:
    (one, mask), (other, _) = tokens(CONTEXT + QUESTION), tokens(CONTEXT + QUESTION, seed=2)
    other[:, :CONTEXT] = one[:, :CONTEXT]
    with sparse_attention(model, "kvzip", sparsity=0.8, context=CONTEXT, impl="torch") as run:
        generate(model, one, mask)
        generate(model, other, mask)
    assert len(chosen) == 2
    (first, kept), (second, kept_again) = chosen
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))
    assert all(torch.equal(x.positions, y.positions) for x, y in zip(kept, kept_again, strict=True))
    assert not run.chosen  # each was taken
    measured = run.density("decode")
    assert measured is not None
    dense = [CONTEXT + i + 1 for i in range(QUESTION + 5)]  # the question, and five steps after the first answer token
    assert measured.computed == pytest.approx(sum(n - CONTEXT + 24 for n in dense) / sum(dense), abs=1e-6)


def test_a_question_may_come_separately(model: Any) -> None:
    (ids, _), name = tokens(CONTEXT + QUESTION), cache_name(model)
    found = []
    for cut in (CONTEXT, None):
        with torch.inference_mode(), sparse_attention(model, "kvzip", sparsity=0.8, context=CONTEXT, impl="torch"):
            before = None if cut is None else getattr(model(ids[:, :cut], use_cache=True), name)
            found.append(model(ids[:, cut:], **{name: before}).logits[:, -1])
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


def test_a_prompt_in_chunks_and_one_without_ids_are_refused(model: Any) -> None:
    (ids, _), name = tokens(CONTEXT), cache_name(model)
    with torch.inference_mode(), sparse_attention(model, "kvzip", sparsity=0.8, impl="torch"):
        before = getattr(model(ids[:, :60], use_cache=True), name)
        with pytest.raises(
            UsageError, match=r"input_ids: '60 tokens' .* kvzip .* give the prompt, or its context, whole"
        ):
            model(ids[:, 60:], **{name: before})
        with pytest.raises(UsageError, match="input_ids: None are what kvzip"):
            model(inputs_embeds=model.get_input_embeddings()(ids))
    with torch.inference_mode(), sparse_attention(model, "kvzip", sparsity=0.8, context=CONTEXT, impl="torch"):  # noqa: SIM117
        with pytest.raises(UsageError, match="input_ids: '60 tokens'"):
            model(ids[:, :60])
    assert not model._forward_pre_hooks  # as it was


def test_chunks_are_shorter_where_positions_end(chosen: list[Any]) -> None:
    """Positions of the second reading follow the first; if none are left, the prompt is refused."""
    ids, mask = tokens(100)
    short = llama(max_position_embeddings=150)
    with sparse_attention(short, "kvzip", sparsity=0.5, impl="torch"):
        generate(short, ids, mask)
    assert chosen[0][0][0].shape == (2, 100)
    none = llama(max_position_embeddings=105)
    with sparse_attention(none, "kvzip", sparsity=0.5, impl="torch"):  # noqa: SIM117
        with pytest.raises(UsageError, match=r"attention: 'kvzip' has .* 100 tokens .* 105 positions leave no room"):
            generate(none, ids, mask)


def test_an_instruction_ends_the_users_turn_and_begins_the_models() -> None:
    before, after = _encoded("kvzip", "\n\nRepeat the previous context exactly.", "qwen2.5", None)
    from sparse_tasks.core.tokenizers import load_tokenizer

    backend = load_tokenizer("qwen2.5").backend
    assert backend.decode(before) == "\n\nRepeat the previous context exactly."
    assert backend.decode(after, skip_special_tokens=False) == "<|im_end|>\n<|im_start|>assistant\n"

"""A sample: a prompt with its gold answer, as generators write it and evaluators read it."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from sparse_tasks.core.records import Count, JsonObject, Name, Natural, Record, Share, Text, to_builtins


class Evidence(Record, frozen=True, kw_only=True):
    """A span of the prompt that the answer needs.

    Attributes:
        start: Index in ``prompt`` of the first character, from 0.
        end: Index in ``prompt`` one past the last character.
        depth: Where the span begins, as a share of the context's characters, in [0, 1].
        label: What it is evidence of (a chapter, a key, a word).
    """

    start: Natural
    end: Count
    depth: Share
    label: str


class Turn(Record, frozen=True, kw_only=True):
    """One of several questions on the same context.

    Attributes:
        level: Which part of the work it asks for (``given``), where the questions are levels of one; else empty.
        history: Number of questions directly before it in the chat, with their gold answers; 0 if the question follows
            the context.
        question: What is asked, with the format of the answer.
        answer: The gold answer, as of the sample.
        answers: The list that the metric compares with.
        metric: Registered name of the metric.
        input_tokens: Tokens of the whole prompt that ends in this question, as the engine gets it.
        evidence: Spans of the sample's ``prompt`` that the answer needs, in order of appearance.
    """

    level: Annotated[str, Meta(pattern=r"^[a-z_]*$(?!\n)")]
    history: Natural
    question: Text
    answer: Text
    answers: Annotated[list[Text], Meta(min_length=1)]
    metric: Name
    input_tokens: Count
    evidence: Annotated[list[Evidence], Meta(min_length=1)]


class Sample(Record, frozen=True, kw_only=True):
    """One prompt with its gold answer and everything that made it.

    Attributes:
        id: Stable, unique over tasks, lengths, seeds and parameters.
        task: Registered name of the task.
        index: Number of the sample within its task and length, from 0.
        length: Target in tokens, as asked for.
        input_tokens: Tokens of the prompt as the engine gets it, chat template and special tokens included.
        max_new_tokens: Answer budget in tokens.
        prompt: The user's message. With ``question_position="after"`` it is exactly
            ``context + question + answer_prefix``; where answers are begun under a chat template,
            ``context + question``.
        context: The long text.
        question: What is asked, with the format of the answer.
        answer_prefix: Opens the model's answer; empty unless the prompt ends inside the answer. Where answers are begun
            under a chat template, it stands in the model's turn.
        answer: The gold answer as a perfect model would write it inside ``<answer>``.
        answers: The list that the metric compares with.
        metric: Registered name of the metric.
        evidence: Spans of the prompt that the answer needs, in order of appearance.
        question_position: ``both`` (before and after the context) or ``after``.
        params: The task's parameters, as JSON.
        seed: Seed of the data set.
        turns: All questions of a sample that asks several, the first of which is ``question``; empty if there is only
            one.
    """

    id: Annotated[str, Meta(pattern=r"^[a-z0-9_]+-[0-9]+-[0-9]{5,}-[0-9a-f]{12}$(?!\n)")]
    task: Name
    index: Natural
    length: Count
    input_tokens: Count
    max_new_tokens: Count
    prompt: Text
    context: Text
    question: Text
    answer_prefix: str
    answer: Text
    answers: Annotated[list[Text], Meta(min_length=1)]
    metric: Name
    evidence: Annotated[list[Evidence], Meta(min_length=1)]
    question_position: Annotated[str, Meta(pattern=r"^(both|after)$(?!\n)")]
    params: Annotated[str, Meta(pattern=r"^\{")]
    seed: Natural
    turns: list[Turn]

    def row(self) -> JsonObject:
        """The sample as a plain dictionary, one key per column."""
        return to_builtins(self)

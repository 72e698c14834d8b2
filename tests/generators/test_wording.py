"""Templates: the user's words around a context; the oracle reads prompts made with them all the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from sparse_tasks.core.errors import BadFileError, DataError, UsageError
from sparse_tasks.core.length import TOLERANCE
from sparse_tasks.core.sample import Sample
from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.evaluators.scoring import gold_score
from sparse_tasks.generators.run import generate_folder
from sparse_tasks.generators.sampling import make_sample
from sparse_tasks.generators.task import TASKS
from sparse_tasks.generators.validation import validate_folder
from sparse_tasks.generators.wording import read_templates
from tests.generators.requests import make_request

FILE = """
[ruler_niah_single_1]
intro = "Hidden in here is a {kind} worth knowing."
question = "Tell me the {kind} kept by {keys} above."
answer_prefix = " The {kind} kept by {keys} is"

[ruler_niah_multiquery]
preview = "Be prepared for a question about {keys}.\\n\\n"
intro = "Read:\\n"
question = "{keys}: which {kind} have they?"

[ruler_vt]
intro = \"\"\"
An example:
{example_log}
Who holds {example_value}? {example_answer}.

Your turn (braces {{like these}} stay):
\"\"\"
question = "Who holds {value}? {count} do."
answer_prefix = " Holders:"

[ruler_cwe]
intro = "Example:\\n{example_list}\\nMost frequent: {example_answer}\\n\\nThe list:\\n"
question = "Which {words} words are the most common above?"
answer_prefix = "\\nAnswer:"

[ruler_fwe]
intro = "A cipher:\\n"
question = "Name the {words} most common groups."
"""
TABLES = ["ruler_niah_single_1", "ruler_niah_multiquery", "ruler_vt", "ruler_cwe", "ruler_fwe"]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def sample(name: str, qwen: PromptTokenizer, path: Path, index: int = 0, **options: object) -> Sample:
    request = make_request([5_000], [name], templates=read_templates(path), preset="ruler", **options)  # type: ignore[arg-type]
    return make_sample(request, qwen, request.tasks[0], 5_000, index)


@pytest.mark.parametrize("position", ["after", "both"])
@pytest.mark.parametrize("name", TABLES)
def test_prompts_have_the_users_words_and_the_oracle_reads_them(
    name: str, position: str, qwen: PromptTokenizer, tmp_path: Path
) -> None:
    path = write(tmp_path / "t.toml", FILE)
    template = read_templates(path)[name]
    for index in range(3):
        made = sample(name, qwen, path, index, question_position=position)
        assert 5_000 - made.max_new_tokens - TOLERANCE <= made.input_tokens <= 5_000 - made.max_new_tokens
        assert made.prompt.endswith(made.context + made.question + made.answer_prefix)
        for words in ("Below is", "ends here", "What is", "What are"):
            assert words not in made.context + made.question
        assert "{like these}" in made.context or name != "ruler_vt"
        (task,) = make_request(["5k"], [name], preset="ruler").tasks
        assert task.oracle(template.read_back(task, made.prompt)) == made.answer
        for span in made.evidence:
            assert span.label in made.prompt[span.start : span.end]


def test_words_are_as_written(qwen: PromptTokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "t.toml", FILE)
    made = sample("ruler_niah_single_1", qwen, path)
    key = made.evidence[0].label
    assert made.context.startswith("Hidden in here is a number worth knowing.\n")
    assert made.question == f"Tell me the number kept by {key} above."
    assert made.answer_prefix == f" The number kept by {key} is"
    both = sample("ruler_niah_multiquery", qwen, path, question_position="both")
    assert both.prompt.startswith("Be prepared for a question about ")
    assert both.question.endswith(": which numbers have they?")


def test_unused_wording_is_reported(tmp_path: Path) -> None:
    templates = read_templates(write(tmp_path / "t.toml", FILE))
    for position, notices in (("both", 0), ("after", 1)):
        request = make_request(["4k"], TABLES, preset="ruler", templates=templates, question_position=position)
        assert len(request.notices) == notices
        assert all("ruler_niah_multiquery has a preview" in notice for notice in request.notices)


def test_a_template_is_part_of_the_key(qwen: PromptTokenizer, tmp_path: Path) -> None:
    one = sample("ruler_fwe", qwen, write(tmp_path / "1.toml", FILE))
    other = sample("ruler_fwe", qwen, write(tmp_path / "2.toml", FILE.replace("A cipher:", "A code:")))
    again = sample("ruler_fwe", qwen, write(tmp_path / "3.toml", FILE.replace("Hidden in", "Out")))
    assert one == again
    assert one.id != other.id
    assert one.context.partition("\n")[2] != other.context.partition("\n")[2]


def test_a_folder_is_validated_with_the_template_that_it_holds(qwen: PromptTokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "t.toml", FILE)
    request = make_request(["4k"], [*TABLES, "ruler_niah_single_2"], 2, preset="ruler", templates=read_templates(path))
    generate_folder(request, qwen, tmp_path / "data")
    report = validate_folder(tmp_path / "data", gold_score)
    assert report.problems == []
    assert report.samples == 12


def test_tags_may_be_asked_for(qwen: PromptTokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "t.toml", '[ruler_vt]\nintro = "Log:"\nquestion = "Who holds {value}? {format}"\n')
    request = make_request(["4k"], ["ruler_vt"], templates=read_templates(path))
    for index in range(3):
        made = make_sample(request, qwen, request.tasks[0], 4_096, index)
        assert made.question.count("<answer>") == 1
        assert made.metric == "set_iou"


def test_a_prompt_of_another_template_is_refused(qwen: PromptTokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "t.toml", FILE)
    made = sample("ruler_fwe", qwen, path)
    template, task = read_templates(path)["ruler_fwe"], TASKS.get("ruler_fwe")()
    for broken in (
        dataclasses.replace(template, intro="Another:\n"),
        dataclasses.replace(template, question="Which?"),
    ):
        with pytest.raises(DataError, match="cannot be read by its template"):
            broken.read_back(task, made.prompt)


# --- bad files ------------------------------------------------------------------------------------------------

GOOD = '[ruler_vt]\nintro = "Log:"\nquestion = "Who holds {value}?"\n'


@pytest.mark.parametrize(
    ("text", "where", "remedy"),
    [
        ('[ruler_vtt]\nintro = "x"', "[ruler_vtt]", "did you mean 'ruler_vt'?"),
        ('[story_multihop]\nintro = "x"', "[story_multihop]", "takes no template"),
        ('[ruler_niah]\nintro = "x"', "[ruler_niah]", "takes no template"),
        ('intro = "x"', ": intro", "is not a table; write [intro]"),
        ("ruler_vt = 3", ": ruler_vt", "is not a table; write [ruler_vt]"),
        ('[ruler_vt]\nquestion = "Who holds {value}?"', "[ruler_vt]", "has no intro; it needs intro and question"),
        ('[ruler_vt]\nintro = "Log:"', "[ruler_vt]", "has no question"),
        (GOOD + 'qestion = "x"', "[ruler_vt] qestion", "did you mean 'question'?"),
        (GOOD + "preview = 3", "[ruler_vt] preview", "is not text"),
        (GOOD + 'preview = " "', "[ruler_vt] preview", "is not text"),
        (GOOD + 'preview = "{valeu}"', "[ruler_vt] preview", "{valeu}, which is unknown; did you mean 'value'?"),
        (GOOD + 'preview = "{keys}"', "[ruler_vt] preview", "{keys}, which is unknown"),
        (GOOD + 'preview = "{value"', "[ruler_vt] preview", "has an extra brace"),
        (GOOD + 'preview = "value}"', "[ruler_vt] preview", "has an extra brace"),
        (GOOD + 'preview = "{}"', "[ruler_vt] preview", "which is not a placeholder"),
        (GOOD + 'preview = "{value!r}"', "[ruler_vt] preview", "which is not a placeholder"),
        (GOOD + 'preview = "{value:>900000000}"', "[ruler_vt] preview", "which is not a placeholder"),
        (GOOD + 'preview = "{value.__class__}"', "[ruler_vt] preview", "which is not a placeholder"),
        (GOOD.replace("{value}", "7"), "[ruler_vt] question", "lacks {value}"),
    ],
)
def test_what_is_wrong_is_named_with_file_table_and_field(text: str, where: str, remedy: str, tmp_path: Path) -> None:
    path = write(tmp_path / "bad.toml", text)
    with pytest.raises(UsageError) as caught:
        read_templates(path)
    assert caught.value.field == "template"
    assert caught.value.value == f"{path}: {where.removeprefix(': ')}"
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; it has a table for each task"),
        (b"# nothing\n", "is empty"),
        (GOOD.encode()[:-3], r"is not TOML: .*line 3\)"),
        (GOOD.encode() * 2, "is not TOML: "),
        (b"[ruler_vt]\nintro = \"\xff\"", "line 2: byte 0xff is not UTF-8"),
        (GOOD.encode("utf-16"), "line 1: byte 0xff is not UTF-8"),
        (bytes(range(128)), "is not TOML: "),
        (b"[" * 100_000, "is not TOML: "),
        (b"#" * 2**21, "has more than 1,048,576 bytes"),
    ],
)  # fmt: skip
def test_bad_files_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "bad.toml", content)
    with pytest.raises(BadFileError, match=message) as caught:
        read_templates(path)
    assert str(caught.value).startswith(f"template: {path}")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match="cannot be read: No such file"):
        read_templates(tmp_path / "none.toml")
    with pytest.raises(BadFileError, match="is a folder"):
        read_templates(tmp_path)

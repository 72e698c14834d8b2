"""The card tells people and ``datasets`` what is in the folder."""

from __future__ import annotations

import io
import json
import logging
import re
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from huggingface_hub import DatasetCard

from sparse_tasks.core.manifest import MANIFEST
from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.generators import dataset
from sparse_tasks.generators.dataset import CARD
from sparse_tasks.generators.run import generate_folder
from sparse_tasks.generators.table import SCHEMA, read_rows, unpacked_bytes
from tests.generators.requests import make_request

TASKS = ["story_multihop", "ruler_niah"]
CONFIGS = ["story_multihop_3k", "ruler_niah_3k", "3k", "story_multihop_5000", "ruler_niah_5000", "5000"]


@pytest.fixture(scope="module")
def folder(qwen: PromptTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("card") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "_SHARD_TOKENS", 7_000)
        generate_folder(make_request(["5000", "3k"], TASKS, samples=3), qwen, path)
    return path


@pytest.fixture(scope="module")
def card(folder: Path) -> DatasetCard:
    return DatasetCard.load(folder / CARD)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def test_header_has_what_good_benchmarks_say(card: DatasetCard) -> None:
    header = card.data.to_dict()
    assert header["license"] == "cc-by-4.0"
    assert header["language"] == ["en"]
    assert header["size_categories"] == ["n<1K"]
    assert header["annotations_creators"] == ["machine-generated"]
    assert header["source_datasets"] == ["original"]
    assert {"question-answering"} <= set(header["task_categories"])
    assert {"long-context", "benchmark", "synthetic"} <= set(header["tags"])
    assert header["pretty_name"]


def test_configurations_name_every_file_once_and_in_order(card: DatasetCard, folder: Path) -> None:
    header = card.data.to_dict()
    assert [config["config_name"] for config in header["configs"]] == CONFIGS
    paths = {config["config_name"]: config["data_files"][0]["path"] for config in header["configs"]}
    assert {config["data_files"][0]["split"] for config in header["configs"]} == {"test"}
    assert paths["story_multihop_3k"] == [
        "3072/story_multihop-test-00000-of-00002.parquet",
        "3072/story_multihop-test-00001-of-00002.parquet",
    ]
    assert sorted(paths["5000"]) == sorted(paths["story_multihop_5000"] + paths["ruler_niah_5000"])
    files = {path.relative_to(folder).as_posix() for path in folder.glob("*/*.parquet")}
    assert {path for named in paths.values() for path in named} == files


def test_name_that_is_a_number_is_quoted(folder: Path) -> None:
    # YAML would read it as an integer, and datasets would not find it.
    header = yaml.safe_load((folder / CARD).read_text(encoding="utf-8").split("---\n")[1])
    assert {type(config["config_name"]) for config in header["configs"] + header["dataset_info"]} == {str}


def test_declared_features_and_sizes_are_those_of_the_files(card: DatasetCard, folder: Path) -> None:
    infos = {info["config_name"]: info for info in card.data.to_dict()["dataset_info"]}
    assert list(infos) == CONFIGS
    paths = {c["config_name"]: c["data_files"][0]["path"] for c in card.data.to_dict()["configs"]}
    for name, info in infos.items():
        features = datasets.Features._from_yaml_list(info["features"])
        assert features.arrow_schema.equals(SCHEMA)
        assert list(features) == SCHEMA.names
        assert info["splits"] == [
            {
                "name": "test",
                "num_bytes": info["dataset_size"],
                "num_examples": sum(len(read_rows(folder / path)) for path in paths[name]),
            }
        ]
        assert info["download_size"] == sum((folder / path).stat().st_size for path in paths[name])
        files = [(folder / path).read_bytes() for path in paths[name]]
        assert info["dataset_size"] == sum(unpacked_bytes(io.BytesIO(content)) for content in files)


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("ask", [{"name": "3k"}, {"name": "ruler_niah_5000"}, {"data_dir": "5000"}])
def test_datasets_reads_the_card_without_complaint(
    folder: Path, ask: dict[str, str], streaming: bool, caplog: pytest.LogCaptureFixture
) -> None:
    # What it cannot use, it leaves out with nothing but a line in the log.
    logger = logging.getLogger("datasets")
    logger.addHandler(caplog.handler)
    try:
        data = datasets.load_dataset(str(folder), **ask, split="test", streaming=streaming)
        rows = list(data)
    finally:
        logger.removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records] == []
    assert len(rows) == (3 if "name" in ask and "_" in ask["name"] else 6)
    assert data.features.arrow_schema.equals(SCHEMA)
    assert list(rows[0]) == SCHEMA.names


@pytest.mark.usefixtures("own_cache")
def test_size_that_is_declared_is_the_size_that_is_there(folder: Path) -> None:
    builder = datasets.load_dataset_builder(str(folder), "5000")
    assert builder.info.splits["test"].num_examples == 6
    assert builder.info.features.arrow_schema.equals(SCHEMA)


def test_reader_learns_what_it_is_and_how_to_load_it(card: DatasetCard, folder: Path) -> None:
    assert 'load_dataset("ORG/NAME", "story_multihop_3k", split="test")' in card.text
    assert 'load_dataset("ORG/NAME", data_dir="3072", split="test")' in card.text
    for name in CONFIGS:
        assert f"| `{name}` | {3 if '_' in name else 6} | " in card.text
    for column in SCHEMA.names:
        assert f"| `{column}` | " in card.text
    for task in TASKS:
        assert f"| `{task}` | " in card.text
    manifest = json.loads((folder / MANIFEST).read_bytes())
    assert manifest["tokenizer"]["sha256"][:16] in card.text
    assert manifest["chat_template"]["sha256"][:16] in card.text
    assert "Seed 42, question position `both`, tokenizer `qwen2.5`" in card.text
    for library, version in manifest["libraries"].items():
        assert f"{library} {version}" in card.text
    assert "sparse-tasks validate DIR" in card.text


def test_licences_of_data_and_code_are_named(card: DatasetCard) -> None:
    assert "The data: [CC BY 4.0](https://creativecommons.org/licenses/by/4.0/)." in card.text
    assert "The code that made it: Apache-2.0." in card.text


def test_example_is_short_and_from_the_first_sample(card: DatasetCard, folder: Path) -> None:
    row = read_rows(folder / "3072/story_multihop-test-00000-of-00002.parquet")[0]
    example, gold = re.findall(r"```text\n(.*?)\n```", card.text, re.DOTALL)
    assert f"`{row['id']}` ({row['input_tokens']} tokens)" in card.text
    assert gold == row["answer"]
    assert len(example) < len(row["prompt"]) / 2
    assert re.search(r"\[… [\d,]+ characters …\]", example)
    pieces = [piece.strip() for piece in re.split(r"\[… [\d,]+ characters …\]", example)]
    assert all(piece in row["prompt"] for piece in pieces)
    span = row["evidence"][0]
    assert row["prompt"][span["start"] : span["start"] + 100] in example


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"length_includes_output": True}, "less the answer budget"),
        ({"question_position": "after"}, "question position `after`"),
        ({"samples": 1, "seed": 7}, "Seed 7, "),
        ({"settings": {"ruler_niah.queries": 2}}, "queries 2"),
    ],
)
def test_card_describes_the_request(qwen: PromptTokenizer, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    request = make_request(["3k"], ["ruler_niah"], **({"samples": 2} | options))
    generate_folder(request, qwen, tmp_path)
    card = DatasetCard.load(tmp_path / CARD)
    assert words in card.text
    assert "{{" not in card.text
    assert "None" not in card.text


def test_card_mentions_bare_prompts(qwen: PromptTokenizer, tmp_path: Path) -> None:
    request = make_request(["3k"], ["ruler_niah"], samples=1, chat_template="none")
    generate_folder(request, qwen.with_template(None), tmp_path)
    assert "no chat template" in DatasetCard.load(tmp_path / CARD).text


def test_text_has_no_stray_blanks(card: DatasetCard) -> None:
    # Markdown tables end at a blank line, and templates like to leave some.
    text = re.sub(r"```.*?```", "code", card.text, flags=re.DOTALL)
    assert "\n\n\n" not in text.strip()
    assert not re.search(r"[ \t]+$", text, re.MULTILINE)

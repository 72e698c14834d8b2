"""A faster encoder serves only while it gives Hugging Face's ids, and data sets do not show which one counted."""

from __future__ import annotations

import contextlib
import hashlib
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.json import read_json
from sparse_tasks.core.manifest import MANIFEST
from sparse_tasks.core.records import Manifest
from sparse_tasks.core.tokenizers import PromptTokenizer, load_tokenizer
from sparse_tasks.core.tokenizers.fast import EncoderError, Fastokens
from sparse_tasks.evaluators.scoring import gold_score
from sparse_tasks.generators import api, dataset, encoding
from sparse_tasks.generators import run as run_room
from sparse_tasks.generators.encoding import choose, texts
from sparse_tasks.generators.estimate import estimate
from sparse_tasks.generators.request import Request
from sparse_tasks.generators.run import generate_folder
from sparse_tasks.generators.validation import validate_folder
from tests.cli.program import contents, run
from tests.example_tokenizers import MAKERS
from tests.generators.requests import make_request

pytest.importorskip("fastokens", reason="fastokens is not installed")

LABEL = Fastokens.label()


class Erring(Fastokens):
    """An encoder that is wrong on one text in fifty."""

    def ids(self, text: str, special: bool) -> list[int] | None:
        ids = super().ids(text, special)
        return ids if ids is None or not self.errs(text) else [*ids, 0]

    def count(self, text: str, special: bool) -> int | None:
        ids = self.ids(text, special)
        return None if ids is None else len(ids)

    def errs(self, text: str) -> bool:
        return hashlib.sha256(text.encode()).digest()[0] % 50 == 0


class ErringLate(Erring):
    """An encoder that is wrong on stories alone, which come after other files."""

    def errs(self, text: str) -> bool:
        return "The story ends here." in text


class ErringFromThen(Erring):
    """An encoder that fails permanently after this many texts."""

    after: ClassVar[int]
    texts: ClassVar[int]

    def ids(self, text: str, special: bool) -> list[int] | None:
        type(self).texts += 1
        ids = Fastokens.ids(self, text, special)
        return ids if ids is None or self.texts <= self.after else ids * 2


class ErringInOrder(Erring):
    """An encoder that gives the right number of ids, two of them in each other's place."""

    def ids(self, text: str, special: bool) -> list[int] | None:
        ids = Fastokens.ids(self, text, special)
        return ids if ids is None or len(text) < 1_500 else [ids[-1], *ids[1:-1], ids[0]]


class Failing(Fastokens):
    """An encoder that says of some texts that it cannot encode them."""

    def ids(self, text: str, special: bool) -> list[int] | None:
        return None if "e" in text[:40] else super().ids(text, special)

    def count(self, text: str, special: bool) -> int | None:
        return None if "e" in text[:40] else super().count(text, special)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of verdicts for one test, in which every request is worth an encoder, and files are small."""
    monkeypatch.setattr(encoding, "_PAYS", 0)
    monkeypatch.setattr(encoding, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(dataset, "_SHARD_TOKENS", 5_000)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def source(tokenizer_folders: dict[str, Path]) -> str:
    """Where a tokenizer is that both encoders load in no time."""
    return str(tokenizer_folders["byte_level"])


@pytest.fixture(scope="module")
def small(source: str) -> PromptTokenizer:
    return load_tokenizer(source)


@pytest.fixture
def proven(monkeypatch: pytest.MonkeyPatch, small: PromptTokenizer) -> Callable[[type[Fastokens]], None]:
    """Makes an encoder one whose proof holds."""

    def prove(encoder: type[Fastokens]) -> None:
        monkeypatch.setattr(encoding, "FAST", encoder)
        encoding._keep(encoding._record(small, encoder), True)

    return prove


@pytest.fixture(scope="module")
def data_request(source: str) -> Request:
    return make_request(["2k", "2600"], ["ruler_niah", "story_multihop"], samples=4, tokenizer=source)


@pytest.fixture(scope="module")
def plain(small: PromptTokenizer, data_request: Request, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the request as Hugging Face's encoder alone makes them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "_SHARD_TOKENS", 5_000)
        folder = tmp_path_factory.mktemp("plain")
        generate_folder(data_request, small, folder, encoder="hf")
    return contents(folder)


def data(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name != MANIFEST}


@pytest.fixture(scope="module")
def sorts(tokenizer_folders: dict[str, Path], qwen: PromptTokenizer) -> dict[str, PromptTokenizer]:
    """Tokenizers of all sorts, with the demo model's where it is."""
    from sparse_tasks.evaluators.demo import demo_model

    found = {name: load_tokenizer(str(folder)) for name, folder in tokenizer_folders.items()} | {"qwen2.5": qwen}
    with contextlib.suppress(UsageError):
        found["demo"] = load_tokenizer(str(demo_model()))
    return found


# Llama's sort spells bytes in its vocabulary (<0x0A>), which a text may spell, too, and fastokens takes for the bytes.
PROVEN = {"byte_level": True, "llama": False, "unigram": False, "bert": False, "qwen2.5": True, "demo": True}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.nightly] * (name in ("qwen2.5", "demo"))) for name in PROVEN]
)
def test_proof_decides_where_the_encoder_is_used(
    name: str, sorts: dict[str, PromptTokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    if name not in sorts:
        pytest.skip("the demo model is not installed")
    reported: list[str] = []
    chosen = choose(sorts[name], 1, "auto", reported.append)
    assert chosen is (Fastokens if PROVEN[name] else None)
    # A sort that is not supported is no surprise, one with other ids is.
    assert len(reported) == (name == "llama")
    # The verdict is kept, and asked for again without a proof.
    monkeypatch.setattr(encoding, "_prove", lambda *_: pytest.fail("proved again"))
    assert choose(sorts[name], 1, "auto", pytest.fail) is chosen


@settings(deadline=None, max_examples=200)
@given(text=st.lists(st.sampled_from(encoding._ODD) | st.text(max_size=20), max_size=40).map("".join), special=...)
def test_proven_encoders_give_the_ids_of_hugging_face(
    text: str, special: bool, sorts: dict[str, PromptTokenizer], fast: dict[str, Fastokens]
) -> None:
    for name, encoder in fast.items():
        expected = sorts[name].backend.encode(text, add_special_tokens=special).ids
        ids = encoder.ids(text, special)
        assert ids in (None, expected), name
        assert encoder.count(text, special) == (None if ids is None else len(ids))


@pytest.fixture(scope="module")
def fast(sorts: dict[str, PromptTokenizer]) -> dict[str, Fastokens]:
    return {name: Fastokens(sorts[name].serialised, sorts[name].splits_special) for name in sorts if PROVEN[name]}


def test_texts_of_the_proof_are_hard(qwen: PromptTokenizer) -> None:
    all_of_them = list(texts(qwen))
    assert sum(len(text.encode()) for text in all_of_them) >= 2_000_000
    seen = set("".join(all_of_them))
    missing = [
        c for c in map(chr, range(0x110000)) if unicodedata.category(c) not in ("Cn", "Cs", "Co") and c not in seen
    ]
    assert missing == []
    for part in ("<|im_start|>", "<|im_end|", " " * 4097, "0" * 1000, "\u200d👦", "Chapter 1\n", "VAR "):
        assert any(part in text for text in all_of_them), part
    assert all_of_them == list(texts(qwen))


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_data_sets_are_the_same_whatever_encoder_counts(
    workers: int,
    source: str,
    small: PromptTokenizer,
    data_request: Request,
    tmp_path: Path,
    plain: dict[str, bytes],
    proven: Callable[[type[Fastokens]], None],
) -> None:
    proven(Fastokens)
    folder = tmp_path / "data"
    manifest = generate_folder(data_request, small, folder, workers)
    assert data(contents(folder)) == data(plain)
    # The encoder is recorded for each file, without effect on samples.
    assert {file.encoder for file in manifest.files.values()} == {LABEL}
    files = {name: {**entry, "encoder": LABEL} for name, entry in as_json(plain)["files"].items()}
    assert read_json(folder / MANIFEST) == as_json(plain) | {"files": files}
    for full in (False, True):
        report = validate_folder(folder, gold_score, tokenizer=source, workers=workers, full=full)
        assert report.problems == []
        assert report.samples == 16
    # An existing folder is unchanged.
    assert generate_folder(data_request, small, folder, encoder="hf") == manifest


def as_json(files: dict[str, bytes]) -> dict[str, dict[str, dict[str, object]]]:
    import json

    return dict(json.loads(files[MANIFEST]))


@pytest.mark.parametrize(
    ("encoder", "workers"),
    [(Erring, 1), pytest.param(Erring, 2, marks=pytest.mark.nightly), (ErringLate, 1), (ErringInOrder, 1)],
)
def test_planted_difference_is_found_dropped_and_remade(
    encoder: type[Fastokens],
    workers: int,
    small: PromptTokenizer,
    data_request: Request,
    tmp_path: Path,
    plain: dict[str, bytes],
    proven: Callable[[type[Fastokens]], None],
) -> None:
    proven(encoder)
    reported: list[str] = []
    generate_folder(data_request, small, tmp_path / "data", workers, notice=reported.append)
    # Files that were made before it was found, too.
    assert contents(tmp_path / "data") == plain
    assert len(reported) == 1
    assert f"{LABEL} does not give the token ids of Hugging Face's tokenizers here" in reported[0]
    # For good.
    assert choose(small, 1, "auto", pytest.fail) is None
    generate_folder(data_request, small, tmp_path / "again", notice=pytest.fail)
    assert contents(tmp_path / "again") == plain


@pytest.fixture(scope="module")
def encoded(small: PromptTokenizer, data_request: Request, tmp_path_factory: pytest.TempPathFactory) -> int:
    """Number of texts of the request that an encoder encodes."""
    folder = tmp_path_factory.mktemp("encoded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "_SHARD_TOKENS", 5_000)
        patch.setattr(run_room, "choose", lambda *_: ErringFromThen)
        ErringFromThen.after, ErringFromThen.texts = 2**40, 0
        generate_folder(data_request, small, folder)
    return ErringFromThen.texts


@pytest.mark.parametrize(
    "share", [0.5, 0.999, *(pytest.param(share, marks=pytest.mark.nightly) for share in (0.0, 0.3, 0.8))]
)
def test_encoder_that_goes_wrong_in_the_middle_is_found_dropped_and_its_files_remade(
    share: float,
    encoded: int,
    small: PromptTokenizer,
    data_request: Request,
    tmp_path: Path,
    plain: dict[str, bytes],
    proven: Callable[[type[Fastokens]], None],
) -> None:
    """Wherever it begins, in a first file or in the last sample of all, and even if nothing fits by its counts."""
    proven(ErringFromThen)
    ErringFromThen.after, ErringFromThen.texts = int(share * encoded), 0
    reported: list[str] = []
    generate_folder(data_request, small, tmp_path / "data", notice=reported.append)
    assert contents(tmp_path / "data") == plain
    assert ["does not give the token ids" in notice for notice in reported] == [True]


def test_planted_difference_is_found_by_the_proof(qwen: PromptTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "FAST", Erring)
    reported: list[str] = []
    assert choose(qwen, 1, "auto", reported.append) is None
    assert len(reported) == 1
    assert choose(qwen, 1, "auto", pytest.fail) is None


def test_texts_that_the_encoder_cannot_encode_are_encoded_by_hugging_face(
    small: PromptTokenizer,
    data_request: Request,
    tmp_path: Path,
    plain: dict[str, bytes],
    proven: Callable[[type[Fastokens]], None],
) -> None:
    proven(Failing)
    generate_folder(data_request, small, tmp_path / "data")
    assert data(contents(tmp_path / "data")) == data(plain)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_validation_finds_a_planted_difference_and_the_mistakes_of_a_data_set(
    workers: int,
    source: str,
    small: PromptTokenizer,
    data_request: Request,
    tmp_path: Path,
    proven: Callable[[type[Fastokens]], None],
) -> None:
    folder = tmp_path / "data"
    generate_folder(data_request, small, folder, encoder="hf")
    proven(ErringInOrder)
    reported: list[str] = []
    assert validate_folder(folder, gold_score, tokenizer=source, workers=workers, notice=reported.append).problems == []
    assert len(reported) == 1
    # A count that is wrong is one by either encoder.
    proven(Fastokens)
    wrong = small.with_template(None)
    request = make_request(["2k"], ["ruler_niah"], samples=3, tokenizer=small.name, chat_template="none")
    folder = tmp_path / "wrong"
    generate_folder(request, wrong, folder, encoder="hf")
    spoil(folder)
    reports = [
        validate_folder(folder, gold_score, tokenizer=source, workers=workers, full=full) for full in (False, True)
    ]
    assert reports[0] == reports[1]
    assert any("the prompt has 2," in problem.what for problem in reports[0].problems)


def spoil(folder: Path) -> None:
    """Raise the count of each sample by one."""
    import pyarrow.parquet as pq

    for path in folder.glob("*/*.parquet"):
        table = pq.ParquetFile(path).read()
        at = table.schema.get_field_index("input_tokens")
        counts = [count + 1 for count in table.column(at).to_pylist()]
        pq.write_table(table.set_column(at, table.schema.field(at), [counts]), path)


def test_samples_in_memory_are_the_same(source: str, proven: Callable[[type[Fastokens]], None]) -> None:
    def made(encoder: str = "auto") -> list[dict[str, object]]:
        return list(api.generate("2k", "ruler_niah", 5, tokenizer=source, encoder=encoder)["ruler_niah_2k"])

    expected = made("hf")
    proven(Fastokens)
    assert made() == expected
    proven(ErringInOrder)
    with pytest.warns(UserWarning, match="does not give the token ids"):
        assert made() == expected


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"same": 1}', b"\xff", b"[" * 100_000])
def test_damaged_verdict_is_proven_again(
    content: bytes, small: PromptTokenizer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "texts", lambda tokenizer: iter(["a text"]))
    assert choose(small, 1, "auto", pytest.fail) is Fastokens
    (record,) = cache.glob("*/*")
    expected = record.read_bytes()
    record.write_bytes(content)
    assert choose(small, 1, "auto", pytest.fail) is Fastokens
    assert record.read_bytes() == expected


def test_few_tokens_a_choice_and_a_missing_package_leave_hugging_face(
    small: PromptTokenizer, monkeypatch: pytest.MonkeyPatch, proven: Callable[[type[Fastokens]], None]
) -> None:
    proven(Fastokens)
    assert choose(small, 1, "hf", pytest.fail) is None
    monkeypatch.setattr(encoding, "_PAYS", 2)
    assert choose(small, 1, "auto", pytest.fail) is None
    assert choose(small, 2, "auto", pytest.fail) is Fastokens
    monkeypatch.setattr(Fastokens, "package", "no-such-package")
    assert choose(small, 2, "auto", pytest.fail) is None


def test_library_panics_are_handled(small: PromptTokenizer) -> None:
    class Panic(BaseException):
        pass

    class Native:
        def encode(self, *_: object) -> object:
            raise Panic

    encoder = Fastokens(small.serialised)
    encoder._native = Native()
    assert encoder.ids("a", special=True) is None
    assert encoder.count("a", special=True) is None


def test_tokenizer_that_is_not_supported_is_refused() -> None:
    with pytest.raises(EncoderError, match=r"does not support the tokenizer: .*BertNormalizer"):
        Fastokens(MAKERS["bert"]().to_str())


def test_estimate_takes_an_encoder(qwen: PromptTokenizer) -> None:
    assert estimate(make_request(["2k"], ["ruler_niah"], samples=2), qwen, 1, Fastokens).seconds > 0


def test_unknown_encoder_is_refused(tmp_path: Path) -> None:
    finished = run("generate", "-l", "2k", "-t", "ruler_niah", "-n", "1", "--encoder", "hff", "-o", tmp_path / "data")
    assert finished.code == 2
    assert "encoder: 'hff' is unknown; did you mean 'hf'?" in finished.err


def test_manifest_of_files_by_both_encoders_can_be_read(plain: dict[str, bytes]) -> None:
    import msgspec

    manifest = as_json(plain)
    first = next(iter(manifest["files"].values()))
    first["encoder"] = "fastokens 0.3.5"
    assert msgspec.convert(manifest, Manifest).files
    first["encoder"] = ""
    with pytest.raises(msgspec.ValidationError, match="encoder"):
        msgspec.convert(manifest, Manifest)

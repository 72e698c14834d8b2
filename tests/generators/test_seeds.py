"""Draws depend on the key alone, are the same for ever, and are as likely as they should be."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_tasks.generators.seeds import Stream, digest

KEY = ("story", 42, 0)

# --- the same for ever --------------------------------------------------------------------------------------


def test_known_answers() -> None:
    # Every data set hangs on these: if one changes, so do the bytes of all samples, and the tasks' versions must rise.
    assert digest(*KEY).hex() == (
        "70ee23c57af4a6f8436e18cedccef1b94b83af219a17ac22abd7d812c90c476c"
        "6ab8988e2cd9dcd5a6635e22fc3b96b32d436748f4bc638b5c695fc3e2bbf172"
    )
    assert digest("é", [1, 2.5, None, True], {"b": 1, "a": "x"}).hex()[:32] == "9be1b5ecd2569085aa33afd5c80f368a"
    words = Stream(*KEY)
    assert [words.word() for _ in range(3)] == [8148210242834780561, 3336200281267168471, 7635331793777256715]
    below = Stream(*KEY)
    assert [below.below(1000) for _ in range(10)] == [441, 180, 413, 608, 979, 153, 859, 403, 82, 201]
    between = Stream(*KEY)
    assert [between.between(-3, 3) for _ in range(10)] == [0, -2, -1, 1, 3, -2, 3, -1, -3, -2]
    uniform = Stream(*KEY)
    assert [uniform.uniform() for _ in range(2)] == [0.4417153623575054, 0.18085577963983068]
    choice = Stream(*KEY)
    assert "".join(choice.choice("abcdef") for _ in range(10)) == "cbcdfafcab"
    items = list(range(10))
    Stream(*KEY).shuffle(items)
    assert items == [2, 6, 8, 7, 0, 5, 9, 3, 1, 4]
    assert Stream(*KEY).sample(range(100), 8) == [44, 18, 42, 62, 98, 19, 86, 0]
    letters = Stream(*KEY).letters("abcdefghijklmnopqrstuvwxyz", 80)
    assert letters == "yhhjqzxswciylytymuurakedtfqznglyvmcqkbxeyaszskyraxrqetdtnphebunoyywwsikcpzcmigma"
    fork = Stream(*KEY).fork("draft", 0)
    assert [fork.below(1000) for _ in range(10)] == [112, 837, 304, 110, 573, 491, 83, 222, 458, 576]


def test_words_are_blake2b_of_the_hashed_key_and_a_counter() -> None:
    # Written out, so that anybody can draw the same numbers in another language.
    key = blake2b(json.dumps(KEY, separators=(",", ":")).encode()).digest()
    expected: list[int] = []
    for first in (0, 16):
        block = b"".join(blake2b(key + i.to_bytes(8, "little")).digest() for i in range(first, first + 16))
        expected += [int.from_bytes(block[i : i + 8], "little") for i in range(0, 1024, 8)][::-1]
    stream = Stream(*KEY)
    assert [stream.word() for _ in range(256)] == expected


@given(st.lists(st.integers() | st.text(st.characters(exclude_categories=["Cs"])) | st.booleans() | st.none()))
def test_the_same_key_gives_the_same_draws(key: list[object]) -> None:
    one, other = Stream(*key), Stream(*key)
    assert [one.word() for _ in range(40)] == [other.word() for _ in range(40)]
    assert one.letters("abc", 100) == other.letters("abc", 100)


def test_the_order_of_names_in_a_key_makes_no_difference() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


# --- independence -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab",), ("a", "b")),
        ((1,), ("1",)),
        ((1,), (True,)),
        ((1,), (1.0,)),
        ((None,), ("null",)),
        ((), ("",)),
        ((1, 2), ((1, 2),)),
        (("a", 1, 0), ("a", 0, 1)),
        (("a",), ("a", None)),
        (('a","b',), ("a", "b")),
        (("é",), ("e\u0301",)),
    ],
)
def test_similar_keys_are_different(one: tuple[object, ...], other: tuple[object, ...]) -> None:
    assert Stream(*one).word() != Stream(*other).word()
    assert Stream("x").fork(*one).word() != Stream("x").fork(*other).word()  # type: ignore[arg-type]


def test_neighbouring_seeds_share_nothing() -> None:
    # Random(seed + index) makes index 1 of seed 42 equal to index 0 of seed 43.
    drawn = [
        [stream.word() for _ in range(200)]
        for seed, index in itertools.product(range(40, 46), range(6))
        for stream in [Stream("story", seed, index)]
    ]
    assert len({word for words in drawn for word in words}) == 36 * 200
    for one, other in itertools.combinations(drawn, 2):
        different = sum((a ^ b).bit_count() for a, b in zip(one, other, strict=True))
        assert abs(different - 6_400) < 6 * math.sqrt(200 * 64 / 4)


def test_a_fork_depends_on_its_names_and_its_parents_key_alone() -> None:
    fresh, used = Stream(*KEY), Stream(*KEY)
    for _ in range(77):
        used.word()
    used.letters("abc", 99)
    assert [fresh.fork("world", 1).word() for _ in range(5)] == [used.fork("world", 1).word() for _ in range(5)]


def test_drawing_from_a_fork_does_not_affect_the_parent() -> None:
    stream, expected = Stream(*KEY), Stream(*KEY)
    before = stream.word()
    stream.fork("world").word()
    assert [before, stream.word()] == [expected.word(), expected.word()]


def test_forks_are_independent_of_each_other_and_of_their_parent() -> None:
    parent = Stream(*KEY)
    streams = [
        parent,
        parent.fork(),
        parent.fork("a"),
        parent.fork("b"),
        parent.fork("a", "b"),
        parent.fork("a").fork("b"),
    ]
    assert len({stream.word() for stream in streams}) == len(streams)
    assert Stream(*KEY).fork("a").word() != Stream(*KEY, "a").word()


def test_letters_do_not_disturb_words() -> None:
    # Both take blocks from one counter: none may be given out twice.
    mixed, words = Stream(*KEY), Stream(*KEY)
    seen = [mixed.word() for _ in range(20)]
    mixed.letters("ab", 500)
    seen += [mixed.word() for _ in range(20)]
    assert seen == [words.word() for _ in range(40)]
    assert len({mixed.word() for _ in range(500)} | set(seen)) == 540


# --- range --------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**63), st.integers(1, 2**40))
def test_below_and_between_stay_in_range(seed: int, n: int) -> None:
    stream = Stream(seed)
    for _ in range(8):
        assert 0 <= stream.below(n) < n
        assert -n <= stream.between(-n, n) <= n
        assert 0.0 <= stream.uniform() < 1.0
    assert stream.below(1) == 0
    assert stream.between(n, n) == n


def test_the_largest_word_stays_in_range() -> None:
    class Largest(Stream):
        def word(self) -> int:
            return 2**64 - 1

    stream = Largest()
    assert stream.uniform() < 1.0
    assert stream.below(7) == 6
    assert stream.between(3, 9) == 9
    assert stream.choice("abc") == "c"


@given(st.integers(0, 2**63), st.lists(st.integers(), max_size=50))
def test_shuffling_keeps_all_items(seed: int, items: list[int]) -> None:
    shuffled = items[:]
    Stream(seed).shuffle(shuffled)
    assert Counter(shuffled) == Counter(items)


@given(st.integers(0, 2**63), st.integers(0, 60), st.data())
def test_a_sample_takes_no_position_twice(seed: int, n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    chosen = Stream(seed).sample(range(n), k)
    assert len(chosen) == len(set(chosen)) == k
    assert set(chosen) <= set(range(n))


def test_a_sample_may_be_drawn_from_very_many() -> None:
    chosen = Stream(1).sample(range(10**15), 5)
    assert len(set(chosen)) == 5


@pytest.mark.parametrize("k", [4, 5])
def test_a_sample_larger_than_the_population_fails(k: int) -> None:
    with pytest.raises(IndexError):
        Stream(1).sample(range(3), k)


@given(st.integers(0, 2**63), st.text("abcdefghij", min_size=1, max_size=10), st.integers(0, 300))
def test_letters_are_of_the_alphabet_and_as_many_as_asked_for(seed: int, alphabet: str, n: int) -> None:
    text = Stream(seed).letters(alphabet, n)
    assert len(text) == n
    assert set(text) <= set(alphabet)


# --- as likely as they should be ----------------------------------------------------------------------------
# The keys are fixed, so these cannot fail by chance; the bounds are six standard deviations.


def evenly(drawn: Iterable[object], outcomes: int) -> bool:
    counts = Counter(drawn)
    expected = sum(counts.values()) / outcomes
    assert len(counts) <= outcomes
    assert expected > 50
    chi2 = sum((n - expected) ** 2 / expected for n in counts.values()) + (outcomes - len(counts)) * expected
    return chi2 < outcomes - 1 + 6 * math.sqrt(2 * (outcomes - 1))


def test_the_measure_of_evenness_sees_a_slight_bias() -> None:
    stream = Stream("biased")
    assert not evenly((min(stream.below(10), stream.below(100)) for _ in range(20_000)), 10)
    assert not evenly((stream.below(9) for _ in range(20_000)), 10)


@pytest.mark.parametrize("n", [2, 3, 7, 10, 100])
def test_below_is_even(n: int) -> None:
    stream = Stream("below", n)
    assert evenly((stream.below(n) for _ in range(20_000)), n)
    assert evenly((stream.choice(range(n)) for _ in range(20_000)), n)
    assert evenly((stream.between(5, 4 + n) for _ in range(20_000)), n)


def test_pairs_of_draws_are_even() -> None:
    stream = Stream("pairs")
    assert evenly(((stream.below(8), stream.below(8)) for _ in range(20_000)), 64)


def test_first_draws_of_neighbouring_keys_are_even() -> None:
    assert evenly((Stream("story", 42, index).below(10) for index in range(10_000)), 10)
    assert evenly((Stream("story", seed, 0).below(10) for seed in range(10_000)), 10)
    parent = Stream("story")
    assert evenly((parent.fork("draft", i).below(10) for i in range(10_000)), 10)


def test_uniform_is_even() -> None:
    stream = Stream("uniform")
    drawn = [stream.uniform() for _ in range(20_000)]
    assert evenly((int(x * 50) for x in drawn), 50)
    assert evenly((int(x * 2**20) % 32 for x in drawn), 32)


@pytest.mark.parametrize(
    "alphabet", ["ab", "abc", "0123456789", "abcdefghijklmnopqrstuvwxyz", "".join(map(chr, range(33, 98)))]
)
def test_letters_are_even(alphabet: str) -> None:
    text = Stream("letters", alphabet).letters(alphabet, 20_000)
    assert evenly(text, len(alphabet))
    assert evenly((text[i : i + 2] for i in range(0, 20_000, 2)), len(alphabet) ** 2) if len(alphabet) <= 10 else True


def test_shuffles_are_uniform() -> None:
    stream, orders = Stream("shuffle"), []
    for _ in range(12_000):
        items = list("abcd")
        stream.shuffle(items)
        orders.append("".join(items))
    assert evenly(orders, 24)


def test_ordered_samples_are_uniform() -> None:
    stream = Stream("sample")
    assert evenly((tuple(stream.sample(range(5), 3)) for _ in range(20_000)), 60)

"""A short answer in free words, right in part."""

import string
from collections import Counter
from collections.abc import Sequence
from typing import Final

from sparse_tasks.evaluators.answers import normalise

_NO_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)
_ARTICLES: Final = frozenset({"a", "an", "the"})


def token_f1(prediction: str | None, answers: Sequence[str]) -> float:
    """SQuAD's F1 of tokens, in [0, 1]: the best over ``answers``, which are alternatives here, not parts.

    Tokens are compared as bags: a word said twice counts twice, on either side. Precision makes repeating the
    context worthless. The value is not rounded. Tokens are SQuAD's (lower case, no punctuation, no articles,
    split at blanks), made from the form in which all metrics compare.
    """
    given = _tokens(prediction or "")
    return max(_f1(given, _tokens(answer)) for answer in answers)


def _tokens(text: str) -> Counter[str]:
    words = normalise(text).translate(_NO_PUNCTUATION).split()
    # An answer of articles alone keeps them, so that "A" as gold can be matched.
    return Counter([word for word in words if word not in _ARTICLES] or words)


def _f1(given: Counter[str], gold: Counter[str]) -> float:
    common = (given & gold).total()
    # 2PR / (P + R), where P = common / given and R = common / gold, in one division.
    return 2 * common / (given.total() + gold.total()) if common else 0.0

"""A short answer in free words, right in part."""

import string
from collections import Counter
from collections.abc import Sequence
from typing import Final

from sparse_tasks.evaluators.answers import normalise
from sparse_tasks.evaluators.metrics.metric import METRICS, Metric

_NO_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)
_ARTICLES: Final = frozenset({"a", "an", "the"})


def token_f1(prediction: str | None, answers: Sequence[str]) -> float:
    """SQuAD's F1 of tokens, in [0, 1]: the best over ``answers``, which are alternatives here, not parts.

    Tokens are compared as bags: a word said twice counts twice, on either side. Precision makes repeating the
    context worthless. The value is not rounded. Tokens are SQuAD's (lower case, no punctuation, no articles,
    split at blanks), made from the form in which all metrics compare.
    """
    given = Counter(words(prediction or ""))
    return max(_f1(given, Counter(words(answer))) for answer in answers)


def words(text: str) -> list[str]:
    """SQuAD's tokens, in order."""
    tokens = normalise(text).translate(_NO_PUNCTUATION).split()
    # An answer of articles alone keeps them, so that "A" as gold can be matched.
    return [token for token in tokens if token not in _ARTICLES] or tokens


def _f1(given: Counter[str], gold: Counter[str]) -> float:
    common = (given & gold).total()
    # 2PR / (P + R), where P = common / given and R = common / gold, in one division.
    return 2 * common / (given.total() + gold.total()) if common else 0.0


METRICS.register("token_f1", Metric(token_f1, alternatives=True))

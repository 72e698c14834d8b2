"""Articles and pronouns."""

from __future__ import annotations

# Words whose first sound differs from what their first letter suggests.
_CONSONANT_SOUND = ("uni", "use", "usu", "eu", "ewe", "one", "once")
_VOWEL_SOUND = ("hour", "honest", "honour", "heir")


def with_article(noun: str) -> str:
    """``noun`` with ``a`` or ``an``.

    >>> with_article("ivory comb"), with_article("brass bell")
    ('an ivory comb', 'a brass bell')
    """
    vowel = noun[0] in "aeiou" and not noun.startswith(_CONSONANT_SOUND)
    return f"an {noun}" if vowel or noun.startswith(_VOWEL_SOUND) else f"a {noun}"

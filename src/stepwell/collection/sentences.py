"""Where sentences end, and how long a text is: shared by all that cuts texts."""

import regex

_END = regex.compile(
    r"(?<=[\p{L}\p{N}_)\]'\"”’»][.!?…])\s+(?=[\p{Lu}\p{Lt}\p{Lo}\p{N}`'\"(\[*“‘«¿¡])|(?<=[。！？])\s*(?=\S)"
)
_ABBREVIATION = regex.compile(
    r"(?:\b(?:e\.g|i\.e|etc|cf|vs|resp|approx|fig|eq|eqs|al|no|incl|w\.r\.t|ref|refs|sec|pp?|vol|[A-Z])\.)$",
    regex.IGNORECASE,
)
_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")


def sentences(text: str) -> list[str]:
    """Split a paragraph into sentences.

    >>> sentences("Open the lid, e.g. with a coin. Is it dry? Then go on.")
    ['Open the lid, e.g. with a coin.', 'Is it dry?', 'Then go on.']
    """
    found: list[str] = []
    for part in _END.split(text):
        if found and _ABBREVIATION.search(found[-1]):
            found[-1] += f" {part}"
        else:
            found.append(part)
    return found


def length(text: str) -> int:
    """Return how many words a text has; in scripts without blanks, two characters count as one.

    >>> length("two words"), length("検索モデル")
    (2, 3)
    """
    return len(text.split()) + len(_UNSPACED.findall(text)) // 2

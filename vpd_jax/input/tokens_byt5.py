"""Tokenizer of ByT5: a byte of UTF-8 is a token. Needs no file.

    "hé"  ->  107 198 172

Ids: 0 padding, 1 end, 2 unknown, then the 256 bytes. A ByT5 model has 384
rows of embedding; those above 258 are unused.

Source: Xue et al., ByT5 (arXiv:2105.13626), section 3.1. Its sentinels are the
last byte ids, counting down, rather than ids of their own.
"""

from collections.abc import Iterable

from vpd_jax.input import tokens_named

_FIRST_BYTE_ID = 3
_NUM_IDS = _FIRST_BYTE_ID + 256
_NUM_SENTINELS = 100
_NAMED = {"<pad>": 0, "</s>": 1, "<unk>": 2}


class Byt5Tokenizer(tokens_named.NamedTokens):
  """Encodes text as bytes and back, see the module's docstring."""

  def __init__(self):
    super().__init__(
      "the tokenizer 'bytes'",
      vocab_size=_NUM_IDS,
      named=_NAMED,
      unk_id=2,
      pad_id=0,
      eos_id=1,
      bos_id=None,
    )

  def encode(self, text: str, *, parse_special: bool = False) -> list[int]:
    """Token ids of `text`, without an end token.

    Args:
      text: any.
      parse_special: read "</s>", "<pad>" and "<unk>" as the tokens.

    Raises:
      ValueError: for half of a surrogate pair.
    """
    tokens_named.check_text(text)
    named = _NAMED if parse_special else {}
    ids = []
    for part in tokens_named.split_at(text, named):
      if isinstance(part, int):
        ids.append(part)
      else:
        ids.extend(_FIRST_BYTE_ID + byte for byte in part.encode())
    return ids

  def decode(self, ids: Iterable[int]) -> str:
    """Text of `ids` up to the first end token; padding is skipped.

    Bytes that are no UTF-8 become U+FFFD.

    Raises:
      ValueError: for an id above 258, or below 0.
    """
    data = bytes(token - _FIRST_BYTE_ID for token in self._text_ids(ids))
    return data.decode(errors="replace")

  def sentinel(self, index: int) -> int:
    """Id of the sentinel: 258 - index.

    Raises:
      ValueError: for an index outside 0..99.
    """
    if not 0 <= index < _NUM_SENTINELS:
      raise ValueError(f"sentinel {index} is not in 0..{_NUM_SENTINELS - 1}")
    return _NUM_IDS - 1 - index

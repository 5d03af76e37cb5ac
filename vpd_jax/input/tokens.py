"""Tokenizer: whole words from a list, and bytes for everything else.

A text is read as if a space stood in front of it, so "21" at the start of a
text and " 21" inside it are one token. Its words are taken in turn: a word is
letters, digits, or one other character, each with the space before it.

    "21 62 ; red?"  ->  " 21" " 62" " ;" " red" "?"

A word on the list is one token. Any other is spelt: its space and first
character if the list has those two, then bytes. Nothing is lost:
decode(encode(text)) == text for every text.

Ids: 0 padding, 1 end, 2..257 the bytes, then the list in its order.
"""

import importlib.resources
import json
import re
from collections.abc import Iterable, Sequence

PAD_ID = 0
EOS_ID = 1
_FIRST_BYTE_ID = 2
_FIRST_PIECE_ID = _FIRST_BYTE_ID + 256

_WORD = re.compile(r" ?(?:[^\W\d_]+|\d+|[^\w\s])|.", re.DOTALL)


def split_words(text: str) -> list[str]:
  """Words of `text`, each with the space before it; joined they are " text".

  >>> split_words("is it red?")
  [' is', ' it', ' red', '?']
  """
  return _WORD.findall(" " + text) if text else []


class ByteTokenizer:
  """Encodes text as token ids and back, see the module's docstring."""

  pad_id = PAD_ID
  eos_id = EOS_ID

  def __init__(self, pieces: Sequence[str]):
    """Initialises from the list of words.

    Args:
      pieces: words as `split_words` gives them, or a space and the first
        character of one.

    Raises:
      ValueError: if a piece is there twice, or is no such word.
    """
    self._ids = {piece: _FIRST_PIECE_ID + i for i, piece in enumerate(pieces)}
    if len(self._ids) < len(pieces):
      twice = sorted({p for p in pieces if list(pieces).count(p) > 1})
      raise ValueError(f"vocabulary has pieces twice: {twice}")
    broken = [p for p in pieces if "".join(_WORD.findall(p)[:1]) != p or not p]
    if broken:
      raise ValueError(f"vocabulary has pieces that are no word: {broken}")
    self._bytes = [bytes([b]) for b in range(256)]
    self._bytes += [piece.encode() for piece in pieces]

  @property
  def vocab_size(self) -> int:
    """Number of ids, padding and end included."""
    return _FIRST_PIECE_ID + len(self._ids)

  def encode(self, text: str) -> list[int]:
    """Token ids of `text`, without an end token; none for an empty text."""
    ids = []
    for word in split_words(text):
      whole = self._ids.get(word)
      if whole is not None:
        ids.append(whole)
        continue
      head = self._ids.get(word[:2])
      if head is not None:
        ids.append(head)
        word = word[2:]
      ids.extend(_FIRST_BYTE_ID + b for b in word.encode())
    return ids

  def decode(self, ids: Iterable[int]) -> str:
    """Text of `ids` up to the first end token; padding is skipped.

    Bytes that are no UTF-8, as an untrained model emits them, become U+FFFD.

    Raises:
      ValueError: for an id that the vocabulary does not have.
    """
    parts = []
    for token in ids:
      if token == EOS_ID:
        break
      if token == PAD_ID:
        continue
      if not _FIRST_BYTE_ID <= token < self.vocab_size:
        raise ValueError(f"token id {token} is not in 0..{self.vocab_size - 1}")
      parts.append(self._bytes[token - _FIRST_BYTE_ID])
    text = b"".join(parts).decode(errors="replace")
    return text.removeprefix(" ")


def load(name: str = "world") -> ByteTokenizer:
  """The tokenizer of `vocab/{name}.txt`: one JSON string a line.

  Raises:
    FileNotFoundError: if there is none; names those that exist.
    ValueError: if a line is no JSON string.
  """
  folder = importlib.resources.files("vpd_jax.input") / "vocab"
  file = folder / f"{name}.txt"
  if not file.is_file():
    known = sorted(f.name.removesuffix(".txt") for f in folder.iterdir())
    raise FileNotFoundError(f"no vocabulary {name!r}; there are {known}")
  pieces = []
  for number, line in enumerate(file.read_text().splitlines(), start=1):
    try:
      piece = json.loads(line)
    except ValueError as e:
      raise ValueError(f"vocab/{name}.txt:{number}: not JSON: {line!r}") from e
    if not isinstance(piece, str):
      raise ValueError(f"vocab/{name}.txt:{number}: not a string: {line!r}")
    pieces.append(piece)
  return ByteTokenizer(pieces)

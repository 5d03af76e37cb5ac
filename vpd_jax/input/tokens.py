"""Tokenizers: the protocol, how one is loaded, and the one of word lists.

    load("world")                               a word list that ships
    load("bytes")                               ByT5's bytes
    load("sentencepiece:DIR/spiece.model")      T5, mT5, Gemma, PaliGemma
    load("sentencepiece+sentinels:T5.model")    ... with T5's 100 sentinels
    load("sentencepiece+locations:GEMMA.model") ... with PaliGemma's locations
    load("hf:DIR")                              tokenizer.json

The one of word lists has whole words from the list, and bytes for everything
else. A text is read as if a space stood in front of it, so "21" at the start of a
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
from typing import Protocol

from vpd_jax.input import tokens_byt5, tokens_hf, tokens_spm

KINDS = ("sentencepiece", "hf")
# Embeddings are padded to a multiple of at most this many rows.
MAX_ROW_MULTIPLE = 256

PAD_ID = 0
EOS_ID = 1
_FIRST_BYTE_ID = 2
_FIRST_PIECE_ID = _FIRST_BYTE_ID + 256

_WORD = re.compile(r" ?(?:[^\W\d_]+|\d+|[^\w\s])|.", re.DOTALL)


class Tokenizer(Protocol):
  """What every tokenizer does.

  Data is not trusted: the name of a control token in a text, as "</s>" or
  "<extra_id_0>", is spelt unless the caller asks for it. See `tokens_named`.
  """

  @property
  def vocab_size(self) -> int:
    """Number of ids."""
    ...

  @property
  def pad_id(self) -> int:
    """Id of padding."""
    ...

  @property
  def eos_id(self) -> int:
    """Id of the end."""
    ...

  @property
  def bos_id(self) -> int | None:
    """Id of the beginning; None where there is none, as in T5."""
    ...

  def encode(self, text: str, *, parse_special: bool = False) -> list[int]:
    """Token ids of `text`, without a beginning or an end token."""
    ...

  def decode(self, ids: Iterable[int]) -> str:
    """Text of `ids` up to the first end token, without control tokens."""
    ...

  def id_of(self, token: str) -> int:
    """Id of a named token; ValueError if there is no such."""
    ...

  def sentinel(self, index: int) -> int:
    """Id of T5's <extra_id_{index}>; ValueError if there is no such."""
    ...

  def location(self, bin: int) -> int:
    """Id of PaliGemma's <loc{bin}>; ValueError if there is no such."""
    ...


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
  bos_id = None

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

  def __repr__(self) -> str:
    return f"ByteTokenizer of {len(self._ids)} words"

  @property
  def vocab_size(self) -> int:
    """Number of ids, padding and end included."""
    return _FIRST_PIECE_ID + len(self._ids)

  def encode(self, text: str, *, parse_special: bool = False) -> list[int]:
    """Token ids of `text`, without an end token; none for an empty text.

    `parse_special` changes nothing: no token has a name.
    """
    del parse_special
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

  def id_of(self, token: str) -> int:
    """Raises ValueError: no token has a name."""
    raise ValueError(f"a word list has no token {token!r}")

  def sentinel(self, index: int) -> int:
    """Raises ValueError: there are none."""
    raise ValueError(
      f"a word list has no sentinel {index}; 'bytes' and the tokenizers of T5"
      " have."
    )

  def location(self, bin: int) -> int:
    """Raises ValueError: there are none."""
    raise ValueError(
      f"a word list has no location token for bin {bin}; PaliGemma's tokenizer"
      " has."
    )


def load(name: str = "world") -> Tokenizer:
  """The tokenizer of a name, see the module's docstring.

  Raises:
    FileNotFoundError: if there is no such file or word list; names those
      that exist.
    ImportError: for a file without the extra `text`.
    ValueError: for an unknown kind; for a damaged or wrong file; for one
      without padding or end.
  """
  kind, colon, path = name.partition(":")
  if not colon:
    return tokens_byt5.Byt5Tokenizer() if name == "bytes" else _word_list(name)
  kind, *extras = kind.split("+")
  known = tokens_spm.EXTRAS if kind == "sentencepiece" else ()
  if kind not in KINDS or not set(extras) <= set(known):
    raise ValueError(
      f"no tokenizer {name!r}: before the colon goes one of {KINDS}, where"
      f" sentencepiece takes +{' or +'.join(tokens_spm.EXTRAS)}."
    )
  if kind == "hf":
    return tokens_hf.read(path)
  return tokens_spm.read(path, extras)


def check_fits(tokenizer: Tokenizer, rows: int) -> None:
  """Refuses a tokenizer that is not the one of an embedding.

  Args:
    tokenizer: that makes the ids.
    rows: of the embedding matrix. Published ones have a few more than ids:
      T5 32128 for 32100, PaliGemma 257216 for 257153.

  Raises:
    ValueError: if an id has no row, or as many rows have no id as no padding
      explains.
  """
  ids = tokenizer.vocab_size
  if ids > rows:
    raise ValueError(
      f"{tokenizer!r} has {ids} ids, but the embedding has {rows} rows: ids"
      f" from {rows} on would have none. Load the tokenizer that belongs to the"
      f" weights, or make the model with vocab_size={ids}."
    )
  if rows - ids >= MAX_ROW_MULTIPLE:
    raise ValueError(
      f"{tokenizer!r} has {ids} ids, but the embedding has {rows} rows:"
      f" {rows - ids} more, which padding to a multiple of {MAX_ROW_MULTIPLE}"
      " does not explain. Load the tokenizer that belongs to the weights"
      " (T5's sentinels and PaliGemma's locations may be missing: see"
      f" input/tokens.py), or make the model with vocab_size={ids}."
    )


def _word_list(name: str) -> ByteTokenizer:
  """The tokenizer of `vocab/{name}.txt`: one JSON string a line."""
  folder = importlib.resources.files("vpd_jax.input") / "vocab"
  file = folder / f"{name}.txt"
  if not file.is_file():
    known = sorted(f.name.removesuffix(".txt") for f in folder.iterdir())
    raise FileNotFoundError(
      f"no vocabulary {name!r}; there are {[*known, 'bytes']}, and files by"
      f" {[f'{kind}:PATH' for kind in KINDS]}"
    )
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

"""What tokenizers with named tokens share: roles, names, untrusted text.

A named token is one with a fixed string, that no rule of the vocabulary
splits: "</s>", "<extra_id_0>", "<loc0042>". There are two kinds.

- Control tokens tell a model something that is not text. They come from
  `encode` only where the caller asks, with `parse_special=True`: a text of a
  data set that holds "</s>" is spelt. `decode` leaves them out.
- Tokens that stand for text: runs of white space, and PaliGemma's <locNNNN>
  and <segNNN>. Targets hold them as text, so they are always read and written.

Departure from the references: transformers reads all of both kinds; with its
split_special_tokens=True it spells only tokens that the file calls special,
and T5Tokenizer still gives the end token for "</s>", whose vocabulary has it
as a piece. SentencePiece spells control symbols, but reads all user-defined
ones, among them Gemma's <start_of_turn>. ByT5's reads all.
"""

import importlib
import re
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType

from vpd_jax import spelling

LOCATIONS = 1024
SEGMENTS = 128

_IS_LOCATION = re.compile(r"<loc\d{4}>|<seg\d{3}>")
_IS_SPACE = re.compile(r"[\s\u2581]+")
_IS_SENTINEL = re.compile(r"\u2581?<extra_id_\d+>")


def is_text(token: str) -> bool:
  """Whether a named token stands for text, so is no control token."""
  return is_location(token) or _IS_SPACE.fullmatch(token) is not None


def is_location(token: str) -> bool:
  """Whether this is one of PaliGemma's <locNNNN> or <segNNN>."""
  return _IS_LOCATION.fullmatch(token) is not None


def is_sentinel(token: str) -> bool:
  """Whether this is one of T5's <extra_id_N>, as mT5 writes it or plain."""
  return _IS_SENTINEL.fullmatch(token) is not None


def location_tokens() -> list[str]:
  """PaliGemma's, in the order of their ids: locations, then segments."""
  locations = [f"<loc{i:04d}>" for i in range(LOCATIONS)]
  return locations + [f"<seg{i:03d}>" for i in range(SEGMENTS)]


def sentinel_tokens(count: int) -> list[str]:
  """T5's, in the order of their ids: the last is <extra_id_0>."""
  return [f"<extra_id_{i}>" for i in reversed(range(count))]


def library(name: str) -> ModuleType:
  """Imports a module of the extra `text`.

  Raises:
    ImportError: if it is not installed; says how to get it.
  """
  try:
    return importlib.import_module(name)
  except ImportError as e:
    raise ImportError(
      f"this tokenizer needs {name.partition('.')[0]}: pip install"
      " 'vpd_jax[text]'"
    ) from e


def split_at(text: str, ids: Mapping[str, int]) -> Iterator[str | int]:
  """Text between tokens, and the ids of the tokens, in turn.

  >>> list(split_at("a<x>b", {"<x>": 7}))
  ['a', 7, 'b']
  """
  if not ids:
    yield text
    return
  longest_first = sorted(ids, key=len, reverse=True)
  pattern = "|".join(re.escape(token) for token in longest_first)
  for part in re.split(f"({pattern})", text):
    if part:
      yield ids.get(part, part)


class NamedTokens:
  """Base of the tokenizers: ids of named tokens, and which to leave out.

  Attributes:
    vocab_size: number of ids.
    pad_id, eos_id: of padding and of the end.
    bos_id: of the beginning; None where there is none.
  """

  def __init__(
    self,
    source: str,
    *,
    vocab_size: int,
    named: Mapping[str, int],
    unk_id: int | None,
    pad_id: int,
    eos_id: int,
    bos_id: int | None,
  ):
    """Initialises.

    Args:
      source: where the tokenizer is from, for messages.
      vocab_size: number of ids.
      named: id of each named token, of both kinds.
      unk_id: of what the vocabulary cannot spell; None where there is no such.
      pad_id: of padding.
      eos_id: of the end.
      bos_id: of the beginning, or None.
    """
    self.vocab_size = vocab_size
    self.pad_id, self.eos_id, self.bos_id = pad_id, eos_id, bos_id
    self._source = source
    # mT5 writes "\u2581<extra_id_0>" for what a text has as " <extra_id_0>".
    self._named = dict(named) | {
      name.removeprefix("\u2581"): index
      for name, index in named.items()
      if is_sentinel(name)
    }
    roles = {i for i in (pad_id, eos_id, bos_id) if i is not None}
    control = {i for name, i in named.items() if not is_text(name)}
    self._control = frozenset((control - {unk_id}) | roles)
    self._left_out = frozenset(control | roles)

  def __repr__(self) -> str:
    return f"{type(self).__name__}({self._source!r})"

  def id_of(self, token: str) -> int:
    """Id of a named token, such as "<start_of_image>".

    Raises:
      ValueError: if there is no such token; names the nearest.
    """
    if token not in self._named:
      near = spelling.hint(token, self._named)
      raise ValueError(f"{self._source} has no token {token!r}.{near}")
    return self._named[token]

  def sentinel(self, index: int) -> int:
    """Id of T5's <extra_id_{index}>; they count down from the last id.

    Raises:
      ValueError: if there is none; says what to load.
    """
    token = f"<extra_id_{index}>"
    if token in self._named:
      return self._named[token]
    count = len({i for name, i in self._named.items() if is_sentinel(name)})
    raise ValueError(
      f"{self._source} has no {token}: it has {count} sentinels."
      " SentencePiece files of T5 do not hold theirs: load"
      " 'sentencepiece+sentinels:PATH'."
    )

  def location(self, bin: int) -> int:
    """Id of PaliGemma's <loc{bin}>: a coordinate in 1024ths of the side.

    Raises:
      ValueError: for a bin outside 0..1023, or if there are no locations;
        says what to load.
    """
    if not 0 <= bin < LOCATIONS:
      raise ValueError(f"location bin {bin} is not in 0..{LOCATIONS - 1}")
    token = f"<loc{bin:04d}>"
    if token in self._named:
      return self._named[token]
    raise ValueError(
      f"{self._source} has no location token {token}. PaliGemma's tokenizer"
      " has them; to a SentencePiece file of Gemma they are added by"
      " 'sentencepiece+locations:PATH'."
    )

  def _text_ids(self, ids: Iterable[int]) -> list[int]:
    """Ids up to the end token, without control tokens, checked.

    Raises:
      ValueError: for an id that the vocabulary does not have.
    """
    out = []
    for token in ids:
      if token == self.eos_id:
        break
      if not 0 <= token < self.vocab_size:
        raise ValueError(f"token id {token} is not in 0..{self.vocab_size - 1}")
      if token not in self._left_out:
        out.append(int(token))
    return out

  def _checked(self, ids: list[int], text: str) -> list[int]:
    """`ids`, of an untrusted text.

    Raises:
      ValueError: if a control token is among them: the file has a rule that
        makes one from text.
    """
    if not self._control.isdisjoint(ids):
      raise ValueError(
        f"{self._source} gives control tokens for the text {text!r}; encode it"
        " with parse_special=True if that is meant."
      )
    return ids


def check_text(text: str) -> None:
  """Refuses what no UTF-8 can hold.

  Raises:
    ValueError: for half of a surrogate pair.
  """
  try:
    text.encode()
  except UnicodeEncodeError as e:
    raise ValueError(f"text {text!r} is no Unicode: {e.reason}") from e

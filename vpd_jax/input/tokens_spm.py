"""Tokenizers of SentencePiece files: T5, mT5, UL2, Gemma, PaliGemma.

T5's files lack the 100 sentinels, and Gemma's lack PaliGemma's locations: both
are put above the pieces on request, as their references do.

    pieces 0..31999    <extra_id_99> 32000 ... <extra_id_0> 32099
    pieces 0..255999   <loc0000> 256000 ... <loc1023>  <seg000> ... <seg127>

Before use, all control tokens of the file become control symbols, which
SentencePiece never makes from text; see `tokens_named`.

Sources: t5 of transformers and seqio's SentencePieceVocabulary (extra_ids);
big_vision pp/tokenizer.py (locations, then segments).
"""

import json
import pathlib
from collections.abc import Collection, Iterable

from google.protobuf import message

from vpd_jax.input import tokens_named

NUM_SENTINELS = 100
EXTRAS = ("sentinels", "locations")

_CONFIG = "tokenizer_config.json"


def read(path: str, extras: Collection[str] = ()) -> "SentencePieceTokenizer":
  """The tokenizer of a file.

  Args:
    path: of a .model file.
    extras: which of EXTRAS to put above the pieces. Sentinels are also put
      there if a tokenizer_config.json beside the file gives "extra_ids".

  Raises:
    FileNotFoundError: if there is no such file.
    ImportError: without the extra `text`.
    ValueError: if the file is damaged or no SentencePiece model, has no
      padding or no end, or has the extras already.
  """
  file = pathlib.Path(path)
  if not file.is_file():
    found = sorted(p.name for p in file.parent.glob("*.model"))
    if file.is_dir():
      found = sorted(f"{file.name}/{p.name}" for p in file.glob("*.model"))
    raise FileNotFoundError(
      f"no SentencePiece file {path!r}; .model files there: {found}"
    )
  num_sentinels = NUM_SENTINELS if "sentinels" in extras else _extra_ids(file)
  return SentencePieceTokenizer(
    file.read_bytes(),
    path,
    num_sentinels=num_sentinels,
    add_locations="locations" in extras,
  )


class SentencePieceTokenizer(tokens_named.NamedTokens):
  """Encodes text as SentencePiece does; pickles with its file."""

  def __init__(
    self,
    data: bytes,
    source: str,
    *,
    num_sentinels: int = 0,
    add_locations: bool = False,
  ):
    """Initialises from the bytes of a file.

    Args:
      data: a serialized SentencePiece model.
      source: its path, for messages.
      num_sentinels: how many to put above the pieces.
      add_locations: put PaliGemma's locations and segments there.

    Raises: as `read`.
    """
    self._arguments = (data, source, num_sentinels, add_locations)
    format_ = tokens_named.library("sentencepiece.sentencepiece_model_pb2")
    model = _parse(data, source, format_)
    types = format_.ModelProto.SentencePiece
    taken = {piece.piece.removeprefix("\u2581") for piece in model.pieces}
    added = {
      "sentinels": tokens_named.sentinel_tokens(num_sentinels),
      "locations": tokens_named.location_tokens() if add_locations else [],
    }
    for what, tokens in added.items():
      if taken & set(tokens):
        raise ValueError(f"{source} has {what} already; load it without.")
      for token in tokens:
        model.pieces.add(piece=token, score=0.0, type=types.USER_DEFINED)
    fixed = (types.CONTROL, types.USER_DEFINED, types.UNKNOWN)
    named, unk_id = {}, None
    for index, piece in enumerate(model.pieces):
      is_sentinel = tokens_named.is_sentinel(piece.piece)
      if piece.type not in fixed and not is_sentinel:
        continue
      named[piece.piece] = index
      if piece.type == types.UNKNOWN:
        unk_id = index
      elif not tokens_named.is_text(piece.piece):
        piece.type = types.CONTROL
    processor = tokens_named.library("sentencepiece").SentencePieceProcessor()
    try:
      processor.LoadFromSerializedProto(model.SerializeToString())
    except RuntimeError as e:
      raise ValueError(f"{source} is damaged: SentencePiece says {e}") from e
    self._processor = processor
    super().__init__(
      source,
      vocab_size=len(model.pieces),
      named=named,
      unk_id=unk_id,
      pad_id=_role(processor.pad_id(), "padding", source),
      eos_id=_role(processor.eos_id(), "end", source),
      bos_id=None if processor.bos_id() < 0 else processor.bos_id(),
    )

  def __reduce__(self):
    return _rebuild, self._arguments

  def encode(self, text: str, *, parse_special: bool = False) -> list[int]:
    """Token ids of `text`, without a beginning or an end token.

    Args:
      text: any. What is lost is the file's choice: T5's joins white space.
      parse_special: read names of control tokens as the tokens. The texts
        between them are encoded each by itself, as transformers does.

    Raises:
      ValueError: for half of a surrogate pair.
    """
    tokens_named.check_text(text)
    if not parse_special:
      return self._checked(self._processor.encode(text), text)
    control = {n: i for n, i in self._named.items() if i in self._left_out}
    ids = []
    for part in tokens_named.split_at(text, control):
      ids += [part] if isinstance(part, int) else self._processor.encode(part)
    return ids

  def decode(self, ids: Iterable[int]) -> str:
    """Text of `ids` up to the first end token, without control tokens.

    Unknown tokens are left out. Bytes that are no UTF-8 become U+FFFD.

    Raises:
      ValueError: for an id that the vocabulary does not have.
    """
    return self._processor.decode(self._text_ids(ids))


def _rebuild(data, source, num_sentinels, add_locations):
  return SentencePieceTokenizer(
    data, source, num_sentinels=num_sentinels, add_locations=add_locations
  )


def _parse(data: bytes, source: str, format_):
  if data.startswith(b"version https://git-lfs"):
    raise ValueError(
      f"{source} is a pointer of Git LFS, not the file: fetch it (git lfs pull)"
    )
  if data.lstrip().startswith(b"{"):
    raise ValueError(
      f"{source} is JSON, no SentencePiece model; a tokenizer.json is loaded"
      " with 'hf:PATH'."
    )
  try:
    model = format_.ModelProto.FromString(data)
  except message.DecodeError as e:
    raise ValueError(
      f"{source} is no SentencePiece model, or damaged, {len(data)} bytes: {e}"
    ) from e
  # These stand behind the pieces: without them the file was cut off.
  if not (model.pieces and model.HasField("normalizer_spec")):
    raise ValueError(
      f"{source} is cut off, or no SentencePiece model: {len(data)} bytes,"
      f" {len(model.pieces)} pieces, and no settings behind them."
    )
  return model


def _role(token: int, what: str, source: str) -> int:
  if token < 0:
    raise ValueError(
      f"{source} has no {what} token. Models here pad and end with tokens of"
      " their own: train it with --pad_id and --eos_id, or use another file."
    )
  return token


def _extra_ids(file: pathlib.Path) -> int:
  """How many sentinels a tokenizer_config.json beside the file asks for."""
  config = file.parent / _CONFIG
  if not config.is_file():
    return 0
  try:
    count = json.loads(config.read_text())["extra_ids"]
  except KeyError:
    return 0
  except (ValueError, TypeError) as e:
    raise ValueError(f"{config} is no JSON object: {e}") from e
  if not isinstance(count, int) or not 0 <= count <= 10_000:
    raise ValueError(f"{config}: extra_ids={count!r} is no number of tokens")
  return count

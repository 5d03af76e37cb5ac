"""Tokenizers of Hugging Face's `tokenizers` library: tokenizer.json.

The file's text rules are the library's own. Ours is what it does not say for
certain: which tokens pad, end and begin; and that no text gives a control
token, see `tokens_named`. For the latter, texts are encoded with a copy of the
file in which control tokens have names that no text can match.

Settings of a file that cut texts, pad them or put tokens around them are
switched off.

Source: huggingface.co/docs/tokenizers; the files beside tokenizer.json as
transformers' tokenization_utils_base.py reads them.
"""

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from vpd_jax.input import tokens_named

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
SPECIAL = "special_tokens_map.json"
ADDED = "added_tokens.json"

# Names of each role, where no file beside tokenizer.json says it.
_USUAL = {
  "pad_token": ("<pad>",),
  "eos_token": ("</s>", "<eos>"),
  "bos_token": ("<s>", "<bos>"),
}


def read(path: str) -> "HfTokenizer":
  """The tokenizer of a folder of transformers, or of one tokenizer.json.

  tokenizer_config.json, special_tokens_map.json and added_tokens.json beside
  it are read where they are there. The first of the first two that has
  "pad_token", "eos_token" or "bos_token" decides it; where neither has, it is
  the token of the usual name: <pad>; </s> or <eos>; <s> or <bos>.

  Raises:
    FileNotFoundError: if there is no such file.
    ImportError: without the extra `text`.
    ValueError: if a file is damaged or they contradict each other, or there
      is no padding or end token.
  """
  file = pathlib.Path(path)
  if file.is_dir():
    file = file / TOKENIZER
  if not file.is_file():
    found = sorted(p.name for p in file.parent.glob("*token*"))
    found += sorted(p.name for p in file.parent.glob("*.model"))
    raise FileNotFoundError(
      f"no {file}; there are {found}. A .model file is loaded with"
      " 'sentencepiece:PATH'."
    )
  data = _read_json(file)
  if not isinstance(data.get("model"), dict) or "vocab" not in data["model"]:
    raise ValueError(f"{file} is no tokenizer.json: it has no model.vocab.")
  beside = {
    name: _read_json(file.parent / name)
    if (file.parent / name).is_file()
    else {}
    for name in (CONFIG, SPECIAL, ADDED)
  }
  data["added_tokens"] = _all_added(data, beside, file)
  return HfTokenizer(json.dumps(data), str(file), _roles(data, beside, file))


class HfTokenizer(tokens_named.NamedTokens):
  """Encodes text as the library does; pickles with its file."""

  def __init__(self, data: str, source: str, roles: Mapping[str, str | None]):
    """Initialises from the text of a tokenizer.json.

    Args:
      data: the text; it holds all added tokens.
      source: its path, for messages.
      roles: the tokens of "pad_token", "eos_token" and "bos_token".

    Raises: as `read`.
    """
    self._arguments = (data, source, dict(roles))
    content = json.loads(data)
    self._reader = _build(data, source)
    vocab = self._reader.get_vocab(with_added_tokens=True)
    for token in content["added_tokens"]:
      if vocab.get(token["content"]) != token["id"]:
        raise ValueError(
          f"{source}: added token {token['content']!r} has id {token['id']},"
          f" but its place in the vocabulary is"
          f" {vocab.get(token['content'])}. The files do not belong together."
        )
    named = {t["content"]: t["id"] for t in content["added_tokens"]}
    for name, index in vocab.items():
      if tokens_named.is_sentinel(name) or tokens_named.is_location(name):
        named[name] = index
    ids = {role: vocab.get(token) for role, token in roles.items() if token}
    for role, index in ids.items():
      if index is None:
        raise ValueError(f"{source} has no token {roles[role]!r}, its {role}.")
      named[roles[role]] = index
    unk = content["model"].get("unk_token")
    unk_id = content["model"].get("unk_id", vocab.get(unk))
    super().__init__(
      source,
      vocab_size=max(vocab.values()) + 1,
      named=named,
      unk_id=unk_id,
      pad_id=ids["pad_token"],
      eos_id=ids["eos_token"],
      bos_id=ids.get("bos_token"),
    )
    self._speller = _build(
      json.dumps(_unreadable(content, self._control, unk_id)), source
    )
    self._speller.encode_special_tokens = True

  def __reduce__(self):
    return HfTokenizer, self._arguments

  def encode(self, text: str, *, parse_special: bool = False) -> list[int]:
    """Token ids of `text`, without a beginning or an end token.

    Args:
      text: any. What is lost is the file's choice: T5's joins white space.
      parse_special: read names of control tokens as the tokens.

    Raises:
      ValueError: for half of a surrogate pair.
    """
    tokens_named.check_text(text)
    if parse_special:
      return self._reader.encode(text, add_special_tokens=False).ids
    ids = self._speller.encode(text, add_special_tokens=False).ids
    return self._checked(ids, text)

  def decode(self, ids: Iterable[int]) -> str:
    """Text of `ids` up to the first end token, without control tokens.

    Unknown tokens are left out. Bytes that are no UTF-8 become U+FFFD.

    Raises:
      ValueError: for an id that the vocabulary does not have.
    """
    return self._reader.decode(self._text_ids(ids), skip_special_tokens=False)


def _build(data: str, source: str):
  tokenizers = tokens_named.library("tokenizers")
  try:
    tokenizer = tokenizers.Tokenizer.from_str(data)
  except Exception as e:  # The library raises no narrower one.
    raise ValueError(f"{source} is damaged or of no known form: {e}") from e
  tokenizer.no_truncation()
  tokenizer.no_padding()
  return tokenizer


def _unreadable(
  content: dict[str, Any], control: frozenset[int], unk_id: int | None
) -> dict[str, Any]:
  """Changes the file's control tokens so that no text matches them.

  Their new names hold a space, which the text rules of every family turn into
  another character before they look names up.
  """
  fresh = {}
  for token in content["added_tokens"]:
    # A token that is special is not looked for in the text.
    token["special"] = token["id"] in control | {unk_id}
    if token["id"] in control:
      fresh[token["content"]] = f" \0{token['id']}"
      token["content"] = fresh[token["content"]]
  model = content["model"]
  vocab = model["vocab"]
  if isinstance(vocab, dict):
    # A piece of the vocabulary need not be an added token.
    fresh |= {t: f" \0{i}" for t, i in vocab.items() if i in control}
    model["vocab"] = {fresh.get(t, t): i for t, i in vocab.items()}
  else:
    for index in control & set(range(len(vocab))):
      vocab[index] = [f" \0{index}", vocab[index][1]]
  if model.get("unk_token") in fresh:
    model["unk_token"] = fresh[model["unk_token"]]
  if "merges" in model:
    model["merges"] = [m for m in model["merges"] if not _makes(m, fresh)]
  return content


def _makes(merge: str | list[str], names: Mapping[str, str]) -> bool:
  left, right = merge.split(" ") if isinstance(merge, str) else merge
  return left in names or right in names or left + right in names


def _all_added(data, beside, file) -> list[dict[str, Any]]:
  """Added tokens of all the files, by id.

  Raises:
    ValueError: if two files give a token different ids.
  """
  more = [
    {"content": content, "id": index}
    for content, index in beside[ADDED].items()
  ]
  for index, token in beside[CONFIG].get("added_tokens_decoder", {}).items():
    more.append({**token, "id": int(index)})
  for token in [*data.get("added_tokens", []), *more]:
    if (
      not isinstance(token.get("content"), str) or type(token["id"]) is not int
    ):
      raise ValueError(f"{file}, or a file beside it: broken token {token}")
  added = {token["content"]: token for token in data.get("added_tokens", [])}
  for token in more:
    content, index = token["content"], token["id"]
    known = added.get(content)
    if known is not None and known["id"] != index:
      raise ValueError(
        f"{file} gives the token {content!r} the id {known['id']}, a file"
        f" beside it {index}. They do not belong together."
      )
    if known is None:
      flags = {"single_word": False, "lstrip": False, "rstrip": False}
      flags |= {"normalized": False, "special": False}
      flags |= {k: v for k, v in token.items() if k in flags}
      added[content] = {"id": index, "content": content, **flags}
  return sorted(added.values(), key=lambda token: token["id"])


def _roles(data, beside, file) -> dict[str, str | None]:
  """The token of each role; None for a beginning that there is not.

  Raises:
    ValueError: if there is no padding or no end.
  """
  added = {token["content"] for token in data["added_tokens"]}
  roles = {}
  for role, usual in _USUAL.items():
    given = [f[role] for f in (beside[CONFIG], beside[SPECIAL]) if role in f]
    if given:
      token = given[0]
      roles[role] = token.get("content") if isinstance(token, dict) else token
      if not isinstance(roles[role], str | None):
        raise ValueError(f"a file beside {file}: {role}={token!r} is no token")
    else:
      found = [token for token in usual if token in added]
      roles[role] = found[0] if len(found) == 1 else None
    if roles[role] is None and role != "bos_token":
      raise ValueError(
        f"{file}: no file says which token is the {role}, and there is not one"
        f" of the usual names {usual}. Set {role!r} in a {CONFIG} beside it."
      )
  return roles


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as e:
    raise ValueError(f"{path} is cut off, or no JSON: {e}") from e
  if not isinstance(content, dict):
    raise ValueError(f"{path} holds no JSON object.")
  return content

"""SentencePiece files: ids, untrusted text, extras, refusals."""

import json
import pickle
import sys

import pytest

from tests import tokenizer_files as files
from vpd_jax.input import tokens, tokens_spm

sentencepiece = pytest.importorskip(
  "sentencepiece", reason="needs sentencepiece: pip install 'vpd_jax[text]'"
)


@pytest.fixture(scope="session")
def t5_bytes():
  return files.t5()


@pytest.fixture(scope="session")
def gemma_bytes():
  return files.gemma()


@pytest.fixture
def load(tmp_path):
  """(bytes, extras, tokenizer_config) -> tokenizer, by its name."""

  def load_(data, extras="", config=None):
    (tmp_path / "spiece.model").write_bytes(data)
    if config is not None:
      text = config if isinstance(config, str) else json.dumps(config)
      (tmp_path / "tokenizer_config.json").write_text(text)
    return tokens.load(f"sentencepiece{extras}:{tmp_path}/spiece.model")

  return load_


def _library(data):
  return sentencepiece.SentencePieceProcessor(model_proto=data)


@pytest.mark.parametrize("kind", ["t5_bytes", "gemma_bytes"])
def test_texts_without_names_are_the_librarys(kind, load, request):
  data = request.getfixturevalue(kind)
  tokenizer, library = load(data), _library(data)
  for text in files.texts():
    ids = tokenizer.encode(text)
    assert ids == library.encode(text)
    assert tokenizer.encode(text, parse_special=True) == ids
    if kind == "gemma_bytes":
      assert tokenizer.decode(ids) == text


def test_roles(load, t5_bytes, gemma_bytes):
  tokenizer = load(t5_bytes)
  roles = (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id)
  assert roles == (0, 1, None)
  tokenizer = load(gemma_bytes)
  roles = (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id)
  assert roles == (0, 1, 2)
  assert tokenizer.id_of("<start_of_turn>") == 5
  with pytest.raises(ValueError, match=r"no token '<start_of_tune>'. Did you"):
    tokenizer.id_of("<start_of_tune>")


@pytest.mark.parametrize("how", ["extras", "config", "both"])
def test_sentinels_stand_above_the_pieces_and_count_down(how, load, t5_bytes):
  num_pieces = _library(t5_bytes).get_piece_size()
  tokenizer = load(
    t5_bytes,
    "" if how == "config" else "+sentinels",
    None if how == "extras" else {"extra_ids": 100},
  )
  assert tokenizer.vocab_size == num_pieces + 100
  assert tokenizer.sentinel(0) == num_pieces + 99
  assert tokenizer.sentinel(1) == num_pieces + 98
  assert tokenizer.sentinel(99) == num_pieces
  with pytest.raises(ValueError, match=r"no <extra_id_100>: it has 100 sent"):
    tokenizer.sentinel(100)


def test_without_sentinels_says_how_to_add_them(load, t5_bytes):
  tokenizer = load(t5_bytes, config={"extra_ids": 0})
  assert tokenizer.vocab_size == _library(t5_bytes).get_piece_size()
  with pytest.raises(ValueError, match=r"has 0 sent.*sentencepiece\+sentinels"):
    tokenizer.sentinel(0)


def test_sentinels_in_the_file_are_found(load):
  # As mT5's file has them: with the space before, in this order.
  data = files.t5(user_defined_symbols=["▁<extra_id_1>", "▁<extra_id_0>"])
  tokenizer = load(data)
  assert (tokenizer.sentinel(0), tokenizer.sentinel(1)) == (4, 3)
  red = tokenizer.encode("red")
  both = tokenizer.encode("red <extra_id_0> red", parse_special=True)
  assert both == [*red, 4, *red]
  assert _library(data).encode("red <extra_id_0> red") == both
  assert 4 not in tokenizer.encode("red <extra_id_0> red")
  with pytest.raises(ValueError, match="has sentinels already"):
    load(data, "+sentinels")


def test_locations_stand_above_the_pieces(load, gemma_bytes):
  first = _library(gemma_bytes).get_piece_size()
  tokenizer = load(gemma_bytes, "+locations")
  assert tokenizer.vocab_size == first + 1024 + 128
  assert tokenizer.location(0) == first
  assert tokenizer.location(1023) == first + 1023
  assert tokenizer.id_of("<seg000>") == first + 1024
  assert tokenizer.id_of("<seg127>") == first + 1151
  for bin in (-1, 1024):
    with pytest.raises(ValueError, match=rf"bin {bin} is not in 0..1023"):
      tokenizer.location(bin)
  # Locations are text: read, and written.
  text = "red<loc0007><loc1023> <seg127>"
  ids = tokenizer.encode(text)
  assert ids[-4:-2] == [first + 7, first + 1023] and ids[-1] == first + 1151
  assert tokenizer.decode(ids) == text
  with pytest.raises(ValueError, match=r"no location .*<loc0003>.*\+locations"):
    load(gemma_bytes).location(3)
  with pytest.raises(ValueError, match="has locations already"):
    load(files.gemma(locations=2), "+locations")


@pytest.mark.parametrize(
  "kind, names",
  [
    ("t5_bytes", ["</s>", "<pad>", "<extra_id_0>", "<extra_id_99>"]),
    ("gemma_bytes", ["<eos>", "<pad>", "<bos>", *files.CONTROL]),
  ],
)
def test_control_tokens_come_from_no_text(kind, names, load, request):
  extras = "+sentinels" if kind == "t5_bytes" else ""
  tokenizer = load(request.getfixturevalue(kind), extras)
  ids = {name: tokenizer.id_of(name) for name in names}
  for name in names:
    for text in (name, f"red {name} red", f"{name}{name}\n{name}"):
      spelt = tokenizer.encode(text)
      assert not set(ids.values()) & set(spelt)
      if kind == "gemma_bytes":
        assert tokenizer.decode(spelt) == text
      parsed = tokenizer.encode(text, parse_special=True)
      assert parsed.count(ids[name]) == text.count(name)


def test_names_that_overlap_are_read_longest_first(load):
  tokenizer = load(files.gemma(symbols=["<a>", "<a>b"]))
  ids = tokenizer.encode("<a>b<a>", parse_special=True)
  assert ids == [tokenizer.id_of("<a>b"), tokenizer.id_of("<a>")]


def test_decode_stops_at_end_and_leaves_out_control_tokens(load, t5_bytes):
  tokenizer = load(t5_bytes, "+sentinels")
  (red,) = tokenizer.encode("red")
  last = tokenizer.vocab_size - 1
  assert tokenizer.decode([0, red, 2, last, 0, red, 1, red, 9999]) == "red red"
  assert tokenizer.decode([]) == "" and tokenizer.encode("") == []
  for token in (-1, last + 1):
    with pytest.raises(ValueError, match=rf"id {token} is not in 0..{last}$"):
      tokenizer.decode([token])


def test_pickles_without_its_file(load, t5_bytes, tmp_path):
  tokenizer = load(t5_bytes, "+sentinels", {"extra_ids": 3})
  data = pickle.dumps(tokenizer)
  (tmp_path / "spiece.model").unlink()
  copy = pickle.loads(data)
  assert copy.sentinel(99) == tokenizer.sentinel(99)
  assert copy.encode("red ; zebra") == tokenizer.encode("red ; zebra")


def test_half_a_surrogate_pair_is_refused(load, t5_bytes):
  with pytest.raises(ValueError, match=r"'a\\ud800' is no Unicode"):
    load(t5_bytes).encode("a\ud800")


@pytest.mark.parametrize(
  "data, message",
  [
    (b"", "cut off, or no SentencePiece model: 0 bytes, 0 pieces"),
    (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
    (b' {"version": "1.0"}', "is JSON, .*hf:PATH"),
    (b"\xff" * 100, "no SentencePiece model, or damaged, 100 bytes"),
    (b"a text\n", "no SentencePiece model, or damaged"),
  ],
)
def test_wrong_file_is_named(data, message, load):
  with pytest.raises(ValueError, match=rf"spiece.model.*{message}"):
    load(data)


def test_cut_file_is_named(load, t5_bytes):
  # Every 997th length, and the first hundred: some cuts are between pieces.
  for length in [*range(100), *range(100, len(t5_bytes) - 1, 997)]:
    with pytest.raises(ValueError, match=r"spiece.model is (cut|no|damaged)"):
      tokens_spm.SentencePieceTokenizer(t5_bytes[:length], "spiece.model")


def test_damage_inside_is_named(t5_bytes):
  from sentencepiece import sentencepiece_model_pb2

  model = sentencepiece_model_pb2.ModelProto.FromString(t5_bytes)
  model.pieces[7].piece = model.pieces[8].piece
  with pytest.raises(ValueError, match=r"x is damaged: .*already defined"):
    tokens_spm.SentencePieceTokenizer(model.SerializeToString(), "x")


@pytest.mark.parametrize(
  "options, message",
  [
    ({"pad_id": -1, "eos_id": 0, "unk_id": 1}, "no padding token.*--pad_id"),
    ({"eos_id": -1, "unk_id": 1}, "no end token.*--eos_id"),
  ],
)
def test_missing_roles_are_named(options, message, load):
  with pytest.raises(ValueError, match=message):
    load(files.t5(**options))


def test_missing_file_names_what_is_there(tmp_path, t5_bytes):
  (tmp_path / "other.model").write_bytes(t5_bytes)
  with pytest.raises(FileNotFoundError, match=r"'.*/a.model'.*'other.model'"):
    tokens.load(f"sentencepiece:{tmp_path}/a.model")
  with pytest.raises(FileNotFoundError, match=r"/other.model'"):
    tokens.load(f"sentencepiece:{tmp_path}")


@pytest.mark.parametrize(
  "config, message",
  [
    ("{", "tokenizer_config.json is no JSON object"),
    ("[]", "tokenizer_config.json is no JSON object"),
    ({"extra_ids": "many"}, "extra_ids='many' is no number"),
    ({"extra_ids": -1}, "extra_ids=-1 is no number"),
  ],
)
def test_broken_config_is_named(config, message, load, t5_bytes):
  with pytest.raises(ValueError, match=message):
    load(t5_bytes, config=config)


def test_library_is_only_needed_for_files(monkeypatch, load, t5_bytes):
  name = "sentencepiece.sentencepiece_model_pb2"
  monkeypatch.setitem(sys.modules, name, None)
  with pytest.raises(ImportError, match=r"pip install 'vpd_jax\[text\]'"):
    load(t5_bytes)
  tokens.load("world")
  tokens.load("bytes")

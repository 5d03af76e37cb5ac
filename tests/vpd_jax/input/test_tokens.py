"""Tokens: known ids, nothing lost, whole words, refusals."""

import pickle
import random
import subprocess
import sys

import pytest

from vpd_jax.input import tokens

_PIECES = (" 2", " 21", " 229", " red", " ;", "22")


@pytest.mark.parametrize(
  "text, expected",
  [
    ("", []),
    ("red", [" red"]),
    ("red red", [" red", " red"]),
    ("21 ; 229", [" 21", " ;", " 229"]),
    # A number that is not on the list is its first digit, then digits: not
    # " 21" and a rest.
    ("216", [" 2", "1", "6"]),
    ("reddish", list(" reddish")),
    ("red?", [" red", "?"]),
    ("é", [" ", "\xc3", "\xa9"]),
    ("22", [" 2", "2"]),
    (" 22", [" ", " 2", "2"]),
    ("a22", [" ", "a", "22"]),
  ],
)
def test_words_are_one_token_and_the_rest_is_spelt(text, expected):
  tokenizer = tokens.ByteTokenizer(_PIECES)
  ids = {piece: 258 + i for i, piece in enumerate(_PIECES)}
  ids |= {chr(byte): 2 + byte for byte in range(256)}
  assert tokenizer.encode(text) == [ids[piece] for piece in expected]


def test_every_text_comes_back():
  tokenizer = tokens.load()
  random_ = random.Random(0)
  alphabet = "ab 0129,;?._-\n\t éß中😀\x00" + "\u2028\xa0"
  words = [" red", "229", " the", "  ", "What"]
  for _ in range(2000):
    parts = random_.choices([*alphabet, *words], k=random_.randint(0, 12))
    text = "".join(parts)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_decode_stops_at_end_and_skips_padding():
  tokenizer = tokens.ByteTokenizer(_PIECES)
  (red,) = tokenizer.encode("red")
  assert tokenizer.decode([0, red, 0, red, 1, red]) == "red red"


def test_decode_replaces_what_is_no_utf8():
  tokenizer = tokens.ByteTokenizer([])
  assert tokenizer.decode([2 + 0xC3, 2 + ord("a")]) == "\ufffda"


@pytest.mark.parametrize("token", [-1, 264])
def test_decode_refuses_unknown_ids(token):
  tokenizer = tokens.ByteTokenizer(_PIECES)
  assert tokenizer.vocab_size == 264
  with pytest.raises(ValueError, match=rf"token id {token} is not in 0..263"):
    tokenizer.decode([token])


def test_pieces_must_be_words_and_differ():
  with pytest.raises(ValueError, match=r"twice: \[' a'\]"):
    tokens.ByteTokenizer([" a", " b", " a"])
  with pytest.raises(ValueError, match=r"no word: \['a b', ''\]"):
    tokens.ByteTokenizer(["a b", ""])


def test_world_vocabulary_has_a_token_per_word():
  tokenizer = tokens.load("world")
  assert tokenizer.vocab_size <= 512
  text = "21 62 229 271 ; 354 62 562 271 , 687 62 895 271 ; 2"
  assert len(tokenizer.encode(text)) == len(text.split())
  text = "What color is the square left of the blue circle"
  assert len(tokenizer.encode(text)) == len(text.split())


def test_unknown_vocabulary_names_those_that_exist():
  with pytest.raises(FileNotFoundError, match=r"'wrld'; there are \['world'"):
    tokens.load("wrld")


@pytest.mark.parametrize(
  "name", ["spm:x", "hf+locations:x", "sentencepiece+s:x"]
)
def test_unknown_kind_names_those_that_exist(name):
  with pytest.raises(ValueError, match=r"'sentencepiece', 'hf'.*\+locations"):
    tokens.load(name)


def test_bytes_are_byt5s():
  tokenizer = tokens.load("bytes")
  assert tokenizer.encode("hé") == [107, 198, 172]
  assert tokenizer.decode([0, 107, 198, 172, 1, 107]) == "hé"
  assert tokenizer.decode([3 + 0xC3, 3 + ord("a")]) == "\ufffda"
  assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id) == (0, 1, None)
  assert tokenizer.encode("</s>") == [3 + byte for byte in b"</s>"]
  assert tokenizer.encode("a</s>b", parse_special=True) == [100, 1, 101]
  assert (tokenizer.sentinel(0), tokenizer.sentinel(99)) == (258, 159)
  for index in (-1, 100):
    with pytest.raises(ValueError, match=f"sentinel {index} is not in 0..99"):
      tokenizer.sentinel(index)
  with pytest.raises(ValueError, match="'bytes' has no location token"):
    tokenizer.location(0)
  with pytest.raises(ValueError, match=r"token id 259 is not in 0..258"):
    tokenizer.decode([259])
  with pytest.raises(ValueError, match="is no Unicode"):
    tokenizer.encode("\ud800")
  tokens.check_fits(tokenizer, 384)


def test_word_list_has_no_named_tokens():
  tokenizer = tokens.ByteTokenizer(_PIECES)
  assert tokenizer.bos_id is None
  with pytest.raises(ValueError, match="no token '<a>'"):
    tokenizer.id_of("<a>")
  with pytest.raises(ValueError, match="no sentinel 0"):
    tokenizer.sentinel(0)
  with pytest.raises(ValueError, match="no location token for bin 5"):
    tokenizer.location(5)


@pytest.mark.parametrize("name", ["world", "bytes"])
def test_shipped_tokenizers_pickle(name):
  tokenizer = tokens.load(name)
  copy = pickle.loads(pickle.dumps(tokenizer))
  assert copy.encode("red zebra") == tokenizer.encode("red zebra")


class _Sized(tokens.ByteTokenizer):
  def __init__(self, size):
    super().__init__([])
    self.size = size

  @property
  def vocab_size(self):
    return self.size


@pytest.mark.parametrize(
  "ids, rows",
  [
    (388, 388),
    (32100, 32128),  # T5
    (250100, 250112),  # mT5
    (257153, 257216),  # PaliGemma; 257152 without its image token
    (257152, 257216),
    (262145, 262208),  # Gemma 3; 262144 without its image token
    (262144, 262208),
    (259, 384),  # ByT5
    (1, 256),
  ],
)
def test_padded_embeddings_fit(ids, rows):
  tokens.check_fits(_Sized(ids), rows)


@pytest.mark.parametrize(
  "ids, rows, message",
  [
    (
      32100,
      32099,
      r"32100 ids.*32099 rows: ids from 32099 on.*vocab_size=32100",
    ),
    (1, 257, r"1 ids.*257 rows: 256 more.*multiple of 256"),
    (32100, 250112, r"32100 ids, .*250112 rows: 218012 more"),
    (256000, 257216, r"1216 more.*locations may be missing"),
  ],
)
def test_other_embeddings_are_refused(ids, rows, message):
  with pytest.raises(ValueError, match=message):
    tokens.check_fits(_Sized(ids), rows)


def test_import_needs_no_library_for_files():
  code = (
    "import sys; sys.modules.update(sentencepiece=None, tokenizers=None);"
    " from vpd_jax.input import tokens; tokens.load('bytes'); tokens.load()"
  )
  subprocess.run([sys.executable, "-c", code], check=True)

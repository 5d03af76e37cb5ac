"""Tokens: known ids, nothing lost, whole words, refusals."""

import random

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

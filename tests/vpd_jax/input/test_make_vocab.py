"""The vocabulary command: which words make the list."""

import sys

from vpd_jax.input import make_vocab


def test_common_words_and_the_digits_make_the_list():
  texts = ["red red blue", "red 21 21 green?", "?", "?"]
  digits = [f" {d}" for d in range(10)]
  pieces = make_vocab.choose_pieces(texts, num_pieces=12, min_count=2)
  assert pieces == sorted([*digits, " red", " 21"])
  assert make_vocab.choose_pieces(texts, 11, 2) == sorted([*digits, " red"])


def test_command_writes_a_file_that_loads(
  write_split, make_record, tmp_path, monkeypatch, capsys
):
  records = [make_record(i, question="Which fruit?") for i in range(3)]
  out = tmp_path / "vocab.txt"
  args = ["make_vocab", str(write_split(records=records)), f"--out={out}"]
  monkeypatch.setattr(sys, "argv", args)
  make_vocab.main()
  pieces = out.read_text().splitlines()
  assert '" fruit"' in pieces and '" 271"' in pieces
  assert f"{len(pieces)} pieces" in capsys.readouterr().out

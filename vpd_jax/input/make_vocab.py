"""Entry: the commonest words of TFRecord data sets -> a vocabulary file.

vocab/world.txt is of the quickstart's two data sets:

    python -m vpd_jax.input.make_vocab WORLD/examples BASE/examples \\
      --out=vpd_jax/input/vocab/world.txt

Counts the words of questions, answers, both rationales and the sentences
that name the tasks. Same bytes for the same data. A vocabulary belongs to the
checkpoints trained with it: a new one is a new file.
"""

import argparse
import collections
import json
import pathlib
from collections.abc import Iterable, Iterator

from vpd_jax.input import schema, tasks, tokens
from vpd_jax.input.records import RecordSource, find_shards

TEXT_FIELDS = ("question", "answer", "rationale", "reference_rationale")


def choose_pieces(
  texts: Iterable[str], num_pieces: int, min_count: int
) -> list[str]:
  """Pieces for `tokens.ByteTokenizer`, sorted, so that more data of one kind
  gives the same file.

  The ten digits with a space in front are always there: they spell the
  numbers that are not. Single bytes are left out: they are tokens already.

  Args:
    texts: to count words in.
    num_pieces: at most, the ten digits included; the commonest words stay.
    min_count: words that are rarer are left out.
  """
  digits = [f" {d}" for d in range(10)]
  counts = collections.Counter()
  for text in texts:
    counts.update(w for w in tokens.split_words(text) if len(w.encode()) > 1)
  common = sorted(counts, key=lambda word: (-counts[word], word))
  words = [w for w in common if counts[w] >= min_count and w not in digits]
  return sorted((digits + words)[:num_pieces])


def read_texts(data_dirs: Iterable[str], split: str) -> Iterator[str]:
  """Texts of all records, and once per record the tasks' sentences."""
  for data_dir in data_dirs:
    source = RecordSource(find_shards(data_dir, split))
    for number in range(len(source)):
      record = schema.parse(source[number])
      for field in TEXT_FIELDS:
        yield record[field]
      yield tasks.LABEL_SUFFIX
      yield tasks.RATIONALE_SUFFIX


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("data_dirs", nargs="+", help="data set folders")
  parser.add_argument("--split", default="train")
  parser.add_argument("--out", required=True, type=pathlib.Path)
  parser.add_argument("--num_pieces", type=int, default=254)
  parser.add_argument("--min_count", type=int, default=3)
  args = parser.parse_args()
  texts = read_texts(args.data_dirs, args.split)
  pieces = choose_pieces(texts, args.num_pieces, args.min_count)
  args.out.write_text("".join(json.dumps(p) + "\n" for p in pieces))
  print(f"{len(pieces)} pieces -> {args.out}")


if __name__ == "__main__":
  main()

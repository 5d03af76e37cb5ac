"""Tiny tokenizer files of each kind, trained where they are used."""

import io
import json
import random

CONTROL = ("<mask>", "<start_of_turn>", "<start_of_image>", "<unused0>")
_WORDS = (
  "red blue square circle left of the What color is where not 12 345 0.5 ; ,"
  " ? é naïve über 中文 日本 <b> </b> < > _ / [ ] extra_id loc eos pad s x y zebra"
).split()
_ALPHABET = (
  "abcxyz 0129,;?._-<>/\n\t  éß中文日本😀ﬁ①½\xa0\u3000\u200b" + "\x07µ"
)


def corpus() -> list[str]:
  """Lines to train on."""
  random_ = random.Random(0)
  return [" ".join(random_.choices(_WORDS, k=8)) for _ in range(500)]


def texts(count=200, seed=1) -> list[str]:
  """Random texts: words, spaces, newlines, signs that are not in `corpus`."""
  random_ = random.Random(seed)
  parts = [*_ALPHABET, *_WORDS, " ", "  ", "\n\n", " red", "the ", "1 2"]
  return [
    "".join(random_.choices(parts, k=random_.randint(0, 30)))
    for _ in range(count)
  ]


def _sentencepiece(**options) -> bytes:
  import sentencepiece

  out = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(corpus()),
    model_writer=out,
    hard_vocab_limit=False,
    num_threads=1,
    minloglevel=2,
    **options,
  )
  return out.getvalue()


def t5(**options) -> bytes:
  """A SentencePiece file as T5's: unigram, no beginning, no sentinels."""
  roles = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
  defaults = {"model_type": "unigram", "vocab_size": 150} | roles
  return _sentencepiece(**defaults | options)


def gemma(symbols=CONTROL, locations=0, **options) -> bytes:
  """A SentencePiece file as Gemma's: BPE, bytes, nothing lost."""
  tokens = [*symbols, "\n\n", "▁▁"]
  tokens += [f"<loc{i:04d}>" for i in range(locations)]
  roles = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
  names = {"pad_piece": "<pad>", "eos_piece": "<eos>", "bos_piece": "<bos>"}
  rules = {
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
    "split_digits": True,
    "allow_whitespace_only_pieces": True,
  }
  defaults = {"model_type": "bpe", "vocab_size": 460} | roles | names | rules
  return _sentencepiece(user_defined_symbols=tokens, **defaults | options)


def hf_unigram() -> dict:
  """A tokenizer.json as T5's: its vocabulary has its special tokens too.

  It cuts, pads, and ends texts, as published files may.
  """
  import tokenizers
  from tokenizers import decoders, models, pre_tokenizers, trainers

  tokenizer = tokenizers.Tokenizer(models.Unigram())
  tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
  tokenizer.decoder = decoders.Metaspace()
  special = ["<pad>", "</s>", "<unk>"]
  trainer = trainers.UnigramTrainer(
    vocab_size=150,
    special_tokens=special,
    unk_token="<unk>",
    show_progress=False,
  )
  tokenizer.train_from_iterator(corpus(), trainer)
  content = json.loads(tokenizer.to_str())
  sentinels = ["<extra_id_1>", "<extra_id_0>"]
  vocab = content["model"]["vocab"]
  content["added_tokens"] += [
    _added(len(vocab) + i, token, special=True)
    for i, token in enumerate(sentinels)
  ]
  vocab += [[token, 0.0] for token in sentinels]
  content["truncation"] = {
    "direction": "Right",
    "max_length": 4,
    "strategy": "LongestFirst",
    "stride": 0,
  }
  content["padding"] = {
    "strategy": {"Fixed": 8},
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "<pad>",
  }
  content["post_processor"] = {
    "type": "TemplateProcessing",
    "single": [
      {"Sequence": {"id": "A", "type_id": 0}},
      {"SpecialToken": {"id": "</s>", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
    "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
  }
  return content


def hf_bpe(
  added=("<image>", "\n\n", "<loc0000>", "<loc0001>"), merged=""
) -> dict:
  """A tokenizer.json with byte-level BPE, as GPT's, and added tokens.

  Text rules make `merged`, a token of the vocabulary, from its characters.
  """
  import tokenizers
  from tokenizers import decoders, models, pre_tokenizers, trainers

  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=400,
    special_tokens=["<pad>", "<eos>", "<bos>"],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  tokenizer.train_from_iterator(corpus(), trainer)
  content = json.loads(tokenizer.to_str())
  vocab, rules = content["model"]["vocab"], []
  for i in range(2, len(merged) + 1):
    vocab.setdefault(merged[:i], len(vocab))
    rules.append([merged[: i - 1], merged[i - 1]])
  content["model"]["merges"] = rules + content["model"]["merges"]
  content["pre_tokenizer"]["use_regex"] = not merged
  first = len(vocab)
  content["added_tokens"] += [
    _added(first + i, token) for i, token in enumerate(added)
  ]
  return content


def _added(index: int, token: str, *, special=False) -> dict:
  flags = {"single_word": False, "lstrip": False, "rstrip": False}
  flags |= {"normalized": False, "special": special}
  return {"id": index, "content": token, **flags}


def write_hf(folder, content: dict, **beside: dict):
  """Writes tokenizer.json and, by their stems, the files beside it."""
  folder.mkdir(exist_ok=True)
  (folder / "tokenizer.json").write_text(json.dumps(content))
  for name, value in beside.items():
    (folder / f"{name}.json").write_text(json.dumps(value))
  return folder

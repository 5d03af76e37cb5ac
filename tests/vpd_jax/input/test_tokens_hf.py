"""tokenizer.json: ids, roles, untrusted text, refusals."""

import copy
import json
import pickle
import sys

import pytest

from tests import tokenizer_files as files
from vpd_jax.input import tokens

tokenizers = pytest.importorskip(
  "tokenizers", reason="needs tokenizers: pip install 'vpd_jax[text]'"
)


@pytest.fixture(scope="session")
def unigram():
  return files.hf_unigram()


@pytest.fixture(scope="session")
def bpe():
  return files.hf_bpe()


@pytest.fixture
def load(tmp_path):
  """(content of tokenizer.json, files beside it by stem) -> tokenizer."""

  def load_(content, **beside):
    folder = files.write_hf(tmp_path / "hf", content, **beside)
    return tokens.load(f"hf:{folder}")

  return load_


def _library(content):
  tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
  tokenizer.no_truncation()
  tokenizer.no_padding()
  return tokenizer


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_texts_without_names_are_the_librarys(kind, load, request):
  content = request.getfixturevalue(kind)
  tokenizer, library = load(content), _library(content)
  for text in files.texts():
    ids = tokenizer.encode(text)
    assert ids == library.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(text, parse_special=True) == ids
    if kind == "bpe":
      assert tokenizer.decode(ids) == text


def test_file_that_cuts_pads_and_ends_texts_does_not(load, unigram):
  tokenizer = load(unigram)
  assert tokenizer.encode("red " * 5 + "red") == tokenizer.encode("red") * 6


def test_a_file_or_its_folder(load, bpe, tmp_path):
  load(bpe)
  one = tokens.load(f"hf:{tmp_path}/hf/tokenizer.json")
  assert one.encode("red") == tokens.load(f"hf:{tmp_path}/hf").encode("red")


def test_sentinels_count_down(load, unigram):
  tokenizer = load(unigram)
  size = len(unigram["model"]["vocab"])
  assert tokenizer.vocab_size == size
  assert (tokenizer.sentinel(0), tokenizer.sentinel(1)) == (size - 1, size - 2)
  with pytest.raises(ValueError, match="no <extra_id_2>: it has 2 sentinels"):
    tokenizer.sentinel(2)


def test_sentinels_and_locations_may_be_pieces_or_added(load, unigram, bpe):
  # Files made from mT5's have its sentinels as pieces only.
  content = copy.deepcopy(unigram)
  content["added_tokens"] = content["added_tokens"][:3]
  for piece in content["model"]["vocab"][-2:]:
    piece[0] = "▁" + piece[0]
  tokenizer = load(content)
  assert tokenizer.sentinel(0) == tokenizer.vocab_size - 1
  assert tokenizer.sentinel(0) not in tokenizer.encode("red <extra_id_0>")
  tokenizer = load(bpe)
  assert tokenizer.location(1) == tokenizer.vocab_size - 1
  text = "red<loc0001>\n\n<loc0000>"
  ids = tokenizer.encode(text)
  assert ids[-1] == tokenizer.location(0) and tokenizer.decode(ids) == text
  with pytest.raises(ValueError, match="no location token <loc0002>"):
    tokenizer.location(2)


@pytest.mark.parametrize(
  "kind, names",
  [
    ("unigram", ["</s>", "<pad>", "<extra_id_0>", "<extra_id_1>"]),
    ("bpe", ["<eos>", "<pad>", "<bos>", "<image>"]),
    ("whole words", ["<eos>", "<pad>", "<bos>", "<image>"]),
    ("merges", ["<eos>", "<pad>", "<bos>", "<image>"]),
  ],
)
def test_control_tokens_come_from_no_text(kind, names, load, request):
  if kind == "merges":
    content = files.hf_bpe(merged="<eos>")
  else:
    fixture = "unigram" if kind == "unigram" else "bpe"
    content = copy.deepcopy(request.getfixturevalue(fixture))
  if kind == "whole words":
    content["model"]["ignore_merges"] = True
  tokenizer = load(content)
  for name in names:
    token = tokenizer.id_of(name)
    for text in (name, f"red {name} red", f"{name}{name}\n{name}"):
      assert token not in tokenizer.encode(text)
      if kind != "unigram":
        assert tokenizer.decode(tokenizer.encode(text)) == text
      parsed = tokenizer.encode(text, parse_special=True)
      assert parsed.count(token) == text.count(name)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_names_in_the_changed_file_are_spelt_too(kind, load, request):
  tokenizer = load(request.getfixturevalue(kind))
  end = tokenizer.eos_id
  for text in (f" \0{end}", f"red \0{end} red"):
    assert end not in tokenizer.encode(text)


@pytest.mark.parametrize("kind", ["unigram", "merges"])
def test_library_alone_leaks_control_tokens(kind, unigram):
  # Why files are changed before use: the library's own switch is not enough.
  library = _library(
    unigram if kind == "unigram" else files.hf_bpe(merged="<eos>")
  )
  library.encode_special_tokens = True
  text = "</s>" if kind == "unigram" else "<eos>"
  assert 1 in library.encode(text, add_special_tokens=False).ids


def test_rule_that_makes_control_tokens_is_refused(load, bpe):
  content = copy.deepcopy(bpe)
  content["model"]["unk_token"] = "<eos>"
  content["model"]["vocab"].pop("z")
  content["model"]["vocab"]["\ufdd0"] = bpe["model"]["vocab"]["z"]
  merges = content["model"]["merges"]
  content["model"]["merges"] = [m for m in merges if "z" not in "".join(m)]
  for token in [t for t in content["model"]["vocab"] if "z" in t]:
    index = content["model"]["vocab"].pop(token)
    content["model"]["vocab"][f"\ufdd0{index}"] = index
  with pytest.raises(ValueError, match=r"gives control tokens for .*'z'"):
    load(content).encode("z")


def test_roles_are_read_from_the_files_beside(load, bpe):
  config = {"pad_token": "<image>", "eos_token": {"content": "<bos>"}}
  config |= {"bos_token": None}
  others = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"}
  tokenizer = load(bpe, tokenizer_config=config, special_tokens_map=others)
  assert tokenizer.pad_id == tokenizer.id_of("<image>")
  assert (tokenizer.eos_id, tokenizer.bos_id) == (2, None)
  config = {"eos_token": "<bos>"}
  others = {"eos_token": "<eos>", "pad_token": "<image>"}
  tokenizer = load(bpe, tokenizer_config=config, special_tokens_map=others)
  assert tokenizer.pad_id == tokenizer.id_of("<image>")
  assert (tokenizer.eos_id, tokenizer.bos_id) == (2, 2)


def test_usual_names_are_the_roles_otherwise(load, bpe, unigram):
  tokenizer = load(bpe)
  roles = (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id)
  assert roles == (0, 1, 2)
  assert load(unigram).bos_id is None


@pytest.mark.parametrize(
  "config, message",
  [
    ({"eos_token": None}, "which token is the eos_token.*Set 'eos_token' in a"),
    ({"pad_token": None}, "which token is the pad_token"),
    ({"eos_token": ["<eos>"]}, r"eos_token=\['<eos>'\] is no token"),
    ({"eos_token": "<end>"}, "has no token '<end>', its eos_token"),
    (
      {"added_tokens_decoder": {"5": {"content": "<image>"}}},
      r"'<image>' the id \d+, a file beside it 5. They do not belong",
    ),
    (
      {"added_tokens_decoder": {"900": {"content": "<new>"}}},
      r"'<new>' has id 900, but its place in the vocabulary is \d+. The files",
    ),
    ({"added_tokens_decoder": {"404": {}}}, "broken token {'id': 404}"),
    ([], "tokenizer_config.json holds no JSON object"),
  ],
)
def test_contradictions_are_named(config, message, load, bpe):
  with pytest.raises(ValueError, match=message):
    load(bpe, tokenizer_config=config)


def test_two_usual_ends_are_refused(load):
  with pytest.raises(ValueError, match="not one of the usual names"):
    load(files.hf_bpe(added=("</s>",)))


@pytest.mark.parametrize("where", ["added_tokens", "tokenizer_config"])
def test_added_tokens_beside_are_known(where, load, bpe):
  size = load(bpe).vocab_size
  contents = {
    "added_tokens": {"<new>": size},
    "tokenizer_config": {
      "added_tokens_decoder": {str(size): {"content": "<new>", "special": True}}
    },
  }
  tokenizer = load(bpe, **{where: contents[where]})
  assert tokenizer.vocab_size == size + 1 and tokenizer.id_of("<new>") == size
  assert tokenizer.encode("<new>", parse_special=True) == [size]
  assert tokenizer.decode(tokenizer.encode("<new>")) == "<new>"


def test_lying_ids_are_named(load, unigram):
  # The library takes such a file without a word.
  content = copy.deepcopy(unigram)
  content["added_tokens"][1]["id"] = 77
  with pytest.raises(ValueError, match=r"'</s>' has id 77, but its place .* 1"):
    load(content)


def test_decode_stops_at_end_and_leaves_out_control_tokens(load, unigram):
  tokenizer = load(unigram)
  red = tokenizer.encode("red")
  last = tokenizer.vocab_size - 1
  ids = [0, *red, 2, last, 0, *red, 1, *red, 9999]
  assert tokenizer.decode(ids) == "red red"
  assert tokenizer.decode([]) == "" and tokenizer.encode("") == []
  for token in (-1, last + 1):
    with pytest.raises(ValueError, match=rf"id {token} is not in 0..{last}$"):
      tokenizer.decode([token])


def test_pickles_without_its_file(load, bpe, tmp_path):
  tokenizer = load(bpe, tokenizer_config={"eos_token": "<bos>"})
  data = pickle.dumps(tokenizer)
  (tmp_path / "hf/tokenizer.json").unlink()
  copy_ = pickle.loads(data)
  assert copy_.eos_id == 2 and copy_.location(1) == tokenizer.location(1)
  text = "red <image> zebra"
  assert copy_.encode(text) == tokenizer.encode(text)


def test_damaged_file_is_named(load, bpe, tmp_path):
  load(bpe)
  file = tmp_path / "hf/tokenizer.json"
  text = file.read_text()
  for damaged in ("", "[]", "{}", '{"model": {"type": "BPE"}}', "\0" * 9):
    file.write_text(damaged)
    with pytest.raises(ValueError, match=r"tokenizer.json"):
      tokens.load(f"hf:{file}")
  for length in range(0, len(text) - 1, 499):
    file.write_text(text[:length])
    with pytest.raises(ValueError, match=r"tokenizer.json is cut off"):
      tokens.load(f"hf:{file}")
  file.write_text(text.replace('"BPE"', '"Foo"'))
  with pytest.raises(ValueError, match="is damaged or of no known form"):
    tokens.load(f"hf:{file}")
  file.write_bytes(b"\x0a\xff\xfe model")
  with pytest.raises(
    ValueError, match=r"tokenizer.json is cut off, or no JSON"
  ):
    tokens.load(f"hf:{file}")


def test_missing_file_names_what_is_there(tmp_path):
  (tmp_path / "spiece.model").touch()
  with pytest.raises(
    FileNotFoundError, match=r"'spiece.model'\].*sentencepiec"
  ):
    tokens.load(f"hf:{tmp_path}")


def test_missing_library_says_how_to_get_it(monkeypatch, load, bpe):
  monkeypatch.setitem(sys.modules, "tokenizers", None)
  with pytest.raises(ImportError, match=r"needs tokenizers: .*vpd_jax\[text\]"):
    load(bpe)


def test_half_a_surrogate_pair_is_refused(load, bpe):
  with pytest.raises(ValueError, match=r"'a\\ud800' is no Unicode"):
    load(bpe).encode("a\ud800")

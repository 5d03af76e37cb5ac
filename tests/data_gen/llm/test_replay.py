import json

import pytest

from data_gen.llm import cache, client, replay


def ask(text, n=1):
  return client.Request((client.Message("user", text),), n=n)


def write(tmp_path, *rules):
  path = tmp_path / "rules.jsonl"
  path.write_text("\n".join(map(json.dumps, rules)))
  return str(path)


def test_the_first_rule_that_matches_answers(tmp_path):
  path = write(
    tmp_path,
    {"match": "cars", "completions": ["one", "two"]},
    {"match": "", "completions": ["else"]},
  )
  answers = replay.Client(path).complete([ask("How many cars?", 3), ask("x")])
  assert [[c.text for c in a] for a in answers] == [
    ["one", "two", "one"],
    ["else"],
  ]


def test_no_rule_is_an_error(tmp_path):
  path = write(tmp_path, {"match": "cars", "completions": ["one"]})
  with pytest.raises(client.LLMError, match="no rule for 'How many cups"):
    replay.Client(path).complete([ask("How many cups?")])


@pytest.mark.parametrize(
  "rule", [{"match": "x"}, [], {"match": "x", "completions": []}]
)
def test_a_malformed_rule_names_its_line(tmp_path, rule):
  path = write(tmp_path, {"match": "", "completions": ["a"]}, rule)
  with pytest.raises(ValueError, match=r"rules\.jsonl, line 2: expected"):
    replay.Client(path)


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"no\.jsonl' does not exist"):
    replay.Client(str(tmp_path / "no.jsonl"))


@pytest.mark.parametrize("name", ["cache", "client", "relpay"])
def test_connect_refuses_what_is_no_backend(name):
  with pytest.raises(KeyError, match=r"no backend|Did you mean 'replay'"):
    cache.connect(name)

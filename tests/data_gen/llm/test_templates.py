"""The template writer: right forms, variety, and what it may see."""

import ast

import pytest

from data_gen.llm import client, templates


def complete(question, n=1, temperature=0.0, seed=0):
  message = client.Message("user", f"API ...\n# Query: {question}\n")
  request = client.Request((message,), n=n, temperature=temperature, seed=seed)
  return [c.text for c in templates.Client().complete([request])[0]]


@pytest.mark.parametrize(
  "question, pieces",
  [
    ("How many coins are there?", ["find('coins')", "len(found)"]),
    (
      "How many coins are in the top half of the picture?",
      ["find('coins')", "p.vertical_center > 500"],
    ),
    ("Are there more than 20 coins?", ["len(found) > 20"]),
    ("Is there a cat in the picture?", ["find('cat')"]),
    (
      "Is the cup above the spoon?",
      ["find('cup')", "find('spoon')", "a.vertical_center > b.vertical"],
    ),
    (
      "Is the cup left of the spoon?",
      ["a.horizontal_center < b.horizontal_center"],
    ),
    ("What does the sign say?", ["ocr(image_patch)"]),
    (
      "Which is nearer, the dog or the tree?",
      ["compute_depth()", "'dog' if a_depth < b_depth else 'tree'"],
    ),
    ("What are coins made of?", ["language_question_answering("]),
    ("Why?", ["visual_question_answering('Why?')"]),
  ],
)
def test_the_plainest_template_of_a_form(question, pieces):
  (text,) = complete(question)
  ast.parse(text)
  for piece in pieces:
    assert piece in text


def test_samples_vary_with_temperature_and_repeat_with_the_seed():
  question = "How many coins are there?"
  assert len(set(complete(question, n=8))) == 1
  sampled = complete(question, n=8, temperature=0.5)
  assert len(set(sampled)) > 1
  assert sampled == complete(question, n=8, temperature=0.5)
  assert sampled[:4] == complete(question, n=4, temperature=0.5)


def test_quotes_in_a_question_stay_inside_the_string():
  (text,) = complete('Why "x\'); import os #"?')
  tree = ast.parse(text)
  assert not any(isinstance(node, ast.Import) for node in ast.walk(tree))


def test_a_colored_noun_gets_a_variant_that_the_detectors_know():
  question = "Which is nearer, the red motorcycle or the yellow bottle?"
  texts = complete(question, n=8, temperature=1.0)
  assert any("find('red object')" in t for t in texts)
  assert any("find('red motorcycle')" in t for t in texts)


def test_a_prompt_without_a_question_is_an_error():
  request = client.Request((client.Message("user", "hello"),))
  with pytest.raises(client.LLMError, match="no line '# Query"):
    templates.Client().complete([request])

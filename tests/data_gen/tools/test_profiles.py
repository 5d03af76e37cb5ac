"""The program APIs by name, and that their prompts are programs."""

import ast
import inspect
import re

import pytest

from data_gen.programs import parse, sample
from data_gen.prompts import load
from data_gen.tools import api, api_calls, api_viper, profiles

PROMPTS = {"vpd_v1": "vpd", "viper_v1": "viper"}


def documented(profile):
  """What a profile's prompt shows."""
  members = [
    value
    for name, value in vars(profile.ImagePatch).items()
    if inspect.isfunction(value) and (name == "__init__" or name[0] != "_")
  ]
  members += [
    value for name, value in vars(profile.Functions).items() if name[0] != "_"
  ]
  return members


def examples(profile):
  """The examples of a profile's docstrings, as texts."""
  for member in documented(profile):
    lines = [
      line[4:]
      for line in (inspect.getdoc(member) or "").split("\n")
      if line.startswith(">>> ")
    ]
    if lines:
      yield "\n".join(lines)


def few_shot_programs(prompt):
  text = load.load(prompt).text
  parts = re.split(r"^# Query: .*\n", text, flags=re.MULTILINE)[1:]
  return [part for part in parts if part.strip()]


def names_used(text):
  """(attributes, called functions) of a program."""
  nodes = list(ast.walk(ast.parse(text)))
  attributes = {n.attr for n in nodes if isinstance(n, ast.Attribute)}
  calls = {
    n.func.id
    for n in nodes
    if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
  }
  return attributes, calls


def test_get():
  assert profiles.get("vpd") is api
  assert profiles.get("viper") is api_viper
  with pytest.raises(KeyError, match=r"'viperr'.*\['viper', 'vpd'\]"):
    profiles.get("viperr")


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_a_namespace_holds_what_the_prompt_shows_and_nothing_else(name):
  profile = profiles.get(name)
  names = profile.namespace(lambda *_: None)
  tree = ast.parse(profile.prompt_text())
  shown = {
    node.name
    for node in tree.body
    if isinstance(node, ast.FunctionDef | ast.ClassDef)
  }
  assert set(names) == shown


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_the_prompt_has_each_signature_and_docstring(name):
  profile = profiles.get(name)
  tree = ast.parse(profile.prompt_text())
  functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
  members = documented(profile)
  assert len(functions) == len(members)
  for node in functions:
    wanted = [a.arg for a in node.args.args if a.arg != "self"]
    assert any(
      member.__name__ == node.name
      and inspect.getdoc(member) == ast.get_docstring(node)
      and wanted
      == [p for p in inspect.signature(member).parameters if p != "self"]
      for member in members
    ), node.name


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_every_call_in_the_prompt_has_a_docstring(name):
  assert all(map(inspect.getdoc, documented(profiles.get(name))))


@pytest.mark.parametrize("name", profiles.PROFILES)
@pytest.mark.parametrize("private", ["_call", "_at", "_box", "data_gen"])
def test_the_prompt_shows_nothing_private(name, private):
  assert private not in profiles.get(name).prompt_text()


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_docstring_examples_pass_the_gate(name):
  texts = list(examples(profiles.get(name)))
  assert len(texts) >= 8
  for text in texts:
    if f"def {parse.NAME}" not in text:
      body = text.replace("\n", "\n  ")
      text = f"def {parse.NAME}(image):\n  {body}"
    parse.parse(text)


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_docstring_examples_use_the_api_of_their_profile(name):
  profile = profiles.get(name)
  names = profile.namespace(lambda *_: None)
  for text in examples(profile):
    attributes, calls = names_used(text)
    assert all(
      hasattr(profile.ImagePatch, a) or hasattr(str, a) for a in attributes
    ), text
    assert all(c in names or parse.is_builtin(c) for c in calls), text


@pytest.mark.parametrize(("prompt", "profile"), PROMPTS.items())
def test_few_shot_programs_use_the_api_of_their_profile(prompt, profile):
  api_module = profiles.get(profile)
  names = api_module.namespace(lambda *_: None)
  programs = few_shot_programs(prompt)
  assert len(programs) >= 3
  for text in programs:
    parse.parse(text)
    attributes, calls = names_used(text)
    assert all(hasattr(api_module.ImagePatch, a) for a in attributes), text
    assert all(c in names or parse.is_builtin(c) for c in calls), text


@pytest.mark.parametrize(("prompt", "profile"), PROMPTS.items())
def test_prompts_hold_the_api_and_end_with_the_query(prompt, profile):
  messages = sample.prompt(prompt, profile).messages(question="How many?")
  assert profiles.get(profile).prompt_text().strip() in messages[-1].content
  assert messages[-1].content.endswith("\n# Query: How many?\n")


def test_a_patch_as_answer():
  """VPD's set captions it, ViperGPT's gives its box."""
  image = api_calls.Image(lambda call, box, arguments: " a dog ")
  assert api.format_answer(api.ImagePatch(image)) == "a dog"
  patch = api_viper.ImagePatch(image)
  assert api_viper.format_answer([patch, 2]) == "0 0 999 999, 2"


@pytest.mark.parametrize("name", profiles.PROFILES)
@pytest.mark.parametrize("value", [None, float("nan"), {}, [None], len])
def test_values_that_are_no_answers(name, value):
  with pytest.raises(api_calls.BadAnswer):
    profiles.get(name).format_answer(value)

"""The stand-in program writer: right programs, mistakes, determinism."""

import collections
import zlib

import numpy as np
import pytest

from data_gen.llm import _grammar_parse, client, grammar
from data_gen.programs import parse
from data_gen.rationale import rewrite
from data_gen.sources import _more_questions, _questions, _view, world
from data_gen.tools import api
from data_gen.trace import events


def _writer(**rates):
  none = {
    "mistake_rate": 0.0,
    "fault_rate": 0.0,
    "misreading_rate": 0.0,
    "chatter_rate": 0.0,
  }
  return grammar.Client(**{**none, **rates})


def _request(question, **changes):
  content = f"Rules.\n\n# Query: How many cars?\n...\n\n# Query: {question}\n"
  given = {"n": 5, "temperature": 0.5, "seed": 0, **changes}
  return client.Request((client.Message("user", content),), **given)


def _texts(writer, question, **changes):
  (completions,) = writer.complete([_request(question, **changes)])
  return [c.text for c in completions]


class SceneTools:
  """Plays the tools from the scene's truth."""

  def __init__(self, scene):
    self._scene = scene

  def __call__(self, tool, box, arguments):
    if tool == "find":
      name = arguments["object_name"]
      return [o.box for o in self._scene.objects if name in ("object", o.kind)]
    if tool == "language_question_answering":
      words = arguments["question"].rstrip("?").split()
      kind = next(w for w in words if w in _more_questions.CORNERS)
      if "corners" in words:
        return str(_more_questions.CORNERS[kind])
      return "yes" if kind in _more_questions.ROLLING else "no"
    thing = next(o for o in self._scene.objects if o.box == box)
    if tool == "ocr":
      return thing.word
    if tool == "compute_depth":
      return thing.depth
    question = arguments["question"]
    if question.startswith("Is it "):
      return "yes" if thing.color in question else "no"
    return thing.color if "color" in question else thing.kind


def _run(text, scene):
  """Runs a program that was written here; returns answer and rationale."""
  tools = SceneTools(scene)
  trace = []
  names = api.namespace(tools)
  names["print"] = lambda text: trace.append(
    events.Event(len(trace), 0, events.PRINT, None, {}, text, text)
  )
  exec(text, names)
  answer = names["execute_command"](api.Image(tools))
  return answer, rewrite.short(trace, answer)


def _asked(preset, split, family, count, seed):
  """Scenes with a question of a family."""
  setting = world.make_setting(preset)
  rules = world.split_rules(split, setting)
  rng = np.random.default_rng([seed, zlib.crc32(family.encode())])
  for _ in range(count):
    scene, (asked,) = world._ask(rng, setting, rules, (family,), 1)
    yield scene, asked


@pytest.mark.parametrize(
  "preset, split, family",
  [
    *(("quickstart", "train", f) for f in world.QUICKSTART_FAMILIES),
    *(("quickstart", "test_relation", f) for f in world.COMPOSITION_FAMILIES),
    *(("quickstart", "test_phrase", f) for f in world.COMPOSITION_FAMILIES),
    *(("large", "train", f) for f in _questions.FAMILIES),
  ],
)
def test_programs_without_mistakes_are_right(preset, split, family):
  """Answer and short rationale equal the scene's, in every style."""
  writer = _writer()
  for scene, asked in _asked(preset, split, family, 40, seed=0):
    for text in _texts(writer, asked.question):
      expected = asked.answer, asked.reference_rationale
      assert _run(text, scene) == expected, f"{asked.question}\n{text}"


@pytest.mark.parametrize("family", list(_questions.FAMILIES))
def test_gate_takes_every_program_without_mistakes(family):
  writer = _writer(chatter_rate=0.5)
  for _, asked in _asked("large", "train", family, 10, seed=3):
    for text in _texts(writer, asked.question):
      parse.parse(text)


def test_default_mistakes_halve_single_programs_but_not_five():
  """Shares over the quickstart's families with faultless tools."""
  writer = grammar.Client(chatter_rate=0.0)
  single, of_five, errors = [], [], collections.Counter()
  for family in world.QUICKSTART_FAMILIES:
    for scene, asked in _asked("quickstart", "train", family, 60, seed=1):
      is_right = []
      for text in _texts(writer, asked.question):
        try:
          answer, _ = _run(text, scene)
          is_right.append(answer == asked.answer)
        except Exception as e:  # Whatever a wrong program raises.
          errors[type(e).__name__] += 1
          is_right.append(False)
      single += is_right
      of_five.append(any(is_right))
  assert 0.5 < np.mean(single) < 0.7
  assert 0.9 < np.mean(of_five) < 1.0
  assert {
    "SyntaxError",
    "IndexError",
    "TypeError",
    "NameError",
    "AttributeError",
  } <= set(errors)


def test_equal_requests_give_equal_completions():
  question = "How many squares are left of the blue circle?"
  request = _request(question)
  first = grammar.Client().complete([request])
  assert first == grammar.Client().complete([request])
  other = grammar.Client().complete([_request(question, seed=1)])
  assert first != other


def test_temperature_zero_repeats_itself():
  texts = _texts(grammar.Client(), "Count the things.", temperature=0.0)
  assert len(texts) == 5
  assert len(set(texts)) == 1


def test_samples_differ_at_temperature_half():
  texts = _texts(_writer(), "What color is the square left of the red cross?")
  assert len(set(texts)) > 1


def test_misreading_is_shared_by_all_samples():
  """Each sample leaves the relation out, or none does."""
  writer = _writer(misreading_rate=1.0)
  question = "How many things are left of the red cross?"
  clean = _grammar_parse.parse(question)
  assert clean.phrases[0].relations
  shapes = set()
  for text in _texts(writer, question):
    code = [t for t in text.splitlines() if "#" not in t and "print" not in t]
    shapes.add(
      (".left" in "".join(code), '"cross"' in text, "red" in "".join(code))
    )
  assert len(shapes) == 1


def test_unknown_question_is_asked_of_the_whole_image():
  (text,) = _texts(_writer(), 'Who said "hi"?', n=1)
  assert 'image_patch.visual_question_answering("Who said \\"hi\\"?")' in text
  compile(text, "program", "exec")


def test_chatter_is_a_fenced_block():
  (text,) = _texts(_writer(chatter_rate=1.0), "Count the things.", n=1)
  assert text.startswith("Here is the program:\n```python\ndef execute")


def test_stop_text_and_length_limit():
  writer = _writer()
  (done,) = writer.complete([_request("Count the things.", stop=("return",))])
  assert all("return" not in c.text for c in done)
  (cut,) = writer.complete([_request("Count the things.", max_new_tokens=5)])
  assert {c.finish_reason for c in cut} == {"length"}
  assert {len(c.text) for c in cut} == {20}


def test_prompt_without_query():
  request = client.Request((client.Message("user", "Hello"),))
  with pytest.raises(client.LLMError, match="# Query: <question>"):
    grammar.Client().complete([request])


def test_rate_out_of_range():
  with pytest.raises(ValueError, match=r"llm.fault_rate=2 must be in 0..1"):
    grammar.Client(fault_rate=2)


def test_plan_by_hand():
  plan = _grammar_parse.parse(
    "What color is the square above the circle that is right of the red cross?"
  )
  phrase = _grammar_parse.Phrase
  relation = _grammar_parse.Relation
  anchor = phrase("red", "cross")
  circle = phrase("", "circle", (relation("right", anchor),))
  square = phrase("", "square", (relation("above", circle),))
  assert plan == _grammar_parse.Plan("attribute", (square,), "color")


@pytest.mark.parametrize(
  "question, form",
  [
    ("What colour is the dog under the red table?", "attribute"),
    ("Are there more crosses than squares?", "compare"),
    ("Is the red dog beneath the blue table?", "relation"),
    ("How many cars are there?", "count"),
    ("Is there an orange cat or a dog?", "exists"),
    ("Why is the sky blue?", "other"),
    ("How many people with hats are there?", "other"),
  ],
)
def test_forms(question, form):
  assert _grammar_parse.parse(question).form == form


def test_writer_knows_no_more_than_the_question():
  """Every question of the world is understood from its text alone."""
  for family in _questions.FAMILIES:
    for _, asked in _asked("large", "train", family, 20, seed=2):
      assert _grammar_parse.parse(asked.question).form != "other", asked


def test_short_by_hand():
  assert _view.short([["1 2 3 4"], [], ["2 1"]], "yes") == "1 2 3 4 ; 2 1 ; yes"

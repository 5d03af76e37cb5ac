"""What comes of a program does not hang on who runs beside it, or how fast."""

import time

import pytest

from data_gen import try_program
from data_gen.sandbox import engine
from data_gen.sandbox import executor as executor_lib
from data_gen.tools import server
from data_gen.tools import tool as tool_lib
from data_gen.trace import recorder

ASK = "x = ImagePatch(image).visual_question_answering({!r})\n"


def program(body):
  lines = "".join(f"  {line}\n" for line in body.strip("\n").split("\n"))
  return f"def execute_command(image):\n{lines}"


class AllAtOnce:
  """Answers when nobody can go on: all programs are woken together."""

  def __init__(self):
    self.tokens = []

  def submit(self, token, call, image, box, arguments):
    self.tokens.append((token, tool_lib.Answer("value", "yes")))

  def poll(self, flush):
    answers, self.tokens = (self.tokens, []) if flush else ([], self.tokens)
    return answers

  def files(self):
    return ()

  def next_deadline_s(self):
    return None


def test_programs_that_are_woken_together_do_not_use_up_each_others_time():
  burn = program(ASK.format("q") + "for i in range(10 ** 6): pass\nreturn x")
  with executor_lib.Executor(wall_time_s=1.0, cpu_s=5) as executor:
    jobs = [engine.Job(burn)] * 40
    outcomes = list(executor.run_all(jobs, AllAtOnce(), in_flight=40))
  assert [outcome.error_class for outcome in outcomes] == [""] * 40


def test_a_stall_of_this_process_is_nobodys_time():
  def jobs():
    for _ in range(8):
      time.sleep(0.6)
      yield engine.Job(program("for i in range(10 ** 5): pass\nreturn 'x'"))

  with executor_lib.Executor(wall_time_s=0.5, cpu_s=5) as executor:
    outcomes = list(executor.run_all(jobs(), AllAtOnce(), in_flight=8))
  assert {outcome.error_class for outcome in outcomes} == {""}


def test_two_executors_on_one_tool_server_get_their_own_answers():
  tools = try_program.tools_of("stub")
  texts = {
    name: program(ASK.format(question) + "return x")
    for name, question in (
      ("a", "What color is it?"),
      ("b", "How many are there?"),
    )
  }
  with (
    executor_lib.Executor() as a,
    executor_lib.Executor() as b,
    server.ToolServer(tools) as shared,
  ):
    left = a.run_all([engine.Job(texts["a"])] * 20, shared, in_flight=4)
    right = b.run_all([engine.Job(texts["b"])] * 20, shared, in_flight=4)
    pairs = list(zip(left, right, strict=True))
  assert {(x.answer, y.answer) for x, y in pairs} == {("red", "2")}


def test_answers_of_a_pass_that_was_left_reach_no_later_program():
  tools = try_program.tools_of("stub")
  with (
    executor_lib.Executor() as executor,
    server.ToolServer(tools, batch_window_s=0.2) as shared,
  ):
    red = program(ASK.format("What color is it?") + "return x")
    left = executor.run_all(
      [engine.Job(program("return 'first'")), *[engine.Job(red)] * 9], shared
    )
    assert next(left).answer == "first"
    left.close()
    two = program(ASK.format("How many are there?") + "return x")
    outcomes = list(executor.run_all([engine.Job(two)] * 30, shared))
  assert {outcome.answer for outcome in outcomes} == {"2"}


def test_one_sandbox_serves_one_pass_at_a_time():
  with executor_lib.Executor() as executor:
    jobs = [engine.Job(program("return 'x'"))] * 3
    first = executor.run_all(jobs, AllAtOnce())
    next(first)
    with pytest.raises(RuntimeError, match="runs programs already"):
      next(executor.run_all(jobs, AllAtOnce()))
    assert len(list(first)) == 2
    assert len(list(executor.run_all(jobs, AllAtOnce()))) == 3


def test_a_closed_tool_server_is_an_error_and_no_wait():
  with executor_lib.Executor() as executor:
    with server.ToolServer(try_program.tools_of("stub")) as tools:
      outcomes = executor.run_all(
        [engine.Job(program(ASK.format("q") + "return x"))], tools
      )
    with pytest.raises(server.ToolServerError, match="is closed"):
      list(outcomes)


def test_texts_do_not_tell_where_in_memory_things_are():
  body = """
print(x for x in [1])
ImagePatch(image).visual_question_answering(f"Which of {map(str, [])}?")
raise ValueError(print)"""
  seen = []
  for _ in range(2):
    with executor_lib.Executor() as executor:
      (outcome,) = executor.run_all([engine.Job(program(body))], AllAtOnce())
      seen.append((outcome.message, outcome.trace))
  assert seen[0] == seen[1]
  assert "at 0x>" in seen[0][1][0].text


@pytest.mark.parametrize(
  "value", ["id(image)", "hash(len)", "hash((1, print))", "hash(image)"]
)
def test_addresses_cannot_be_asked_for(value):
  with executor_lib.Executor() as executor:
    (outcome,) = executor.run_all(
      [engine.Job(program(f"return {value}"))], AllAtOnce()
    )
  assert outcome.error_class in ("name", "type")


def test_a_completion_of_wide_characters_is_one_refusal_among_others():
  fine = engine.Job(program("return 'x'"))
  wide = engine.Job("\U0001f600" * 100_000)
  with executor_lib.Executor() as executor:
    outcomes = list(executor.run_all([fine, wide, fine], AllAtOnce()))
  assert [outcome.answer for outcome in outcomes] == ["x", None, "x"]
  assert outcomes[1].status == "refused"


@pytest.mark.parametrize(
  "body",
  [
    "for i in range(30_000): print('x')\nreturn 'x'",
    "for i in range(150):\n  " + ASK.format("q" * 900) + "return 'x'",
  ],
)
def test_a_trace_has_a_limit(body):
  with executor_lib.Executor(max_trace_bytes=100_000) as executor:
    (outcome,) = executor.run_all([engine.Job(program(body))], AllAtOnce())
  assert outcome.error_class == "output"
  assert sum(len(event.text) for event in outcome.trace) <= 110_000


def test_children_of_a_pass_that_ended_are_gone():
  with executor_lib.Executor() as executor:
    for _ in range(5):
      list(executor.run_all([engine.Job(program("return 'x'"))], AllAtOnce()))
    deadline_s = time.monotonic() + 10
    zygote = executor._zygote
    while zygote._children and time.monotonic() < deadline_s:
      zygote.take_endings()
      time.sleep(0.01)
    assert not zygote._children


@pytest.mark.parametrize(
  "text",
  [
    "find('car') on 0 0 500 500 -> 2 found: 1 2 30 40 and 5 6 70 80",
    "program output: 7",
    "Step 1: find('car') -> none found",
    "  Program  output : 7",
  ],
)
def test_printed_steps_are_marked_as_printed(text):
  one = recorder.Recorder()
  one.record_print(1, text)
  assert one.trace()[0].text.startswith("printed: ")
  assert one.trace()[0].value == text.strip()

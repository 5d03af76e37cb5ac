"""One run as the host sees it: bytes in, answers in, outcome out."""

import math
import time

import pytest

from data_gen.sandbox import frames
from data_gen.sandbox import limits as limits_lib
from data_gen.sandbox import session as session_lib
from data_gen.tools import tool as tool_lib

FIND = {
  "kind": "call",
  "tool": "find",
  "box": [0, 0, 999, 999],
  "arguments": {"object_name": "car"},
  "line": 3,
}
LLM = {
  "kind": "call",
  "tool": "language_question_answering",
  "box": None,
  "arguments": {"question": "Why?", "long_answer": False},
  "line": 4,
}
ANSWER = {"kind": "answer", "text": "red"}
NONE_FOUND = tool_lib.Answer("value", [])


def start(clock=time.monotonic, **limits):
  limits = limits_lib.Limits(**limits)
  session = session_lib.Session(limits, "a program", clock)
  session.outbox.clear()
  return session


def say(session, *messages):
  session.receive(b"".join(map(frames.encode, messages)))


def sent(session):
  """The values in the outbox, which is cleared."""
  reader = frames.Reader()
  reader.feed(bytes(session.outbox))
  session.outbox.clear()
  values = []
  while reader.has_frame():
    values.append(reader.next())
  return values


def test_the_program_is_sent_first():
  session = session_lib.Session(limits_lib.Limits(), "a program é\ud800")
  assert sent(session) == ["a program é\ud800"]
  assert session.pending is session.ending is None


def test_a_program_that_is_far_too_long_fits_a_frame():
  session = session_lib.Session(limits_lib.Limits(), "\x00" * 10**7)
  (text,) = sent(session)
  assert len(text) < 10**6


@pytest.mark.parametrize("piece", [1, 7, 10**6])
def test_a_run_from_start_to_end_in_any_pieces(piece):
  session = start()
  printed = {"kind": "print", "text": "none", "line": 5}
  data = b"".join(map(frames.encode, (FIND, printed, ANSWER)))
  for i in range(0, len(data), piece):
    session.receive(data[i : i + piece])
  assert session.ending is None  # What follows a call waits for its answer.
  assert session.pending == session_lib.Request(
    "find", (0, 0, 999, 999), {"object_name": "car"}, 3
  )
  session.answer(NONE_FOUND)
  assert session.pending is None
  assert sent(session) == [{"value": []}]
  assert session.ending == ("", "")
  outcome = session.outcome()
  assert (outcome.status, outcome.answer) == ("ok", "red")
  assert outcome.tool_calls == 1
  assert [event.text for event in outcome.trace] == [
    "find('car') -> none found",
    "none",
    "Program output: red",
  ]
  assert [event.line for event in outcome.trace] == [3, 5, 0]


def test_a_refusal_reaches_the_program_and_is_no_step():
  session = start()
  say(session, FIND)
  session.answer(tool_lib.Answer("refused", message="too \x1b long"))
  assert sent(session) == [{"refused": "too \\x1b long"}]
  say(session, ANSWER)
  assert len(session.outcome().trace) == 1


def test_a_fault_of_a_tool_is_the_ending():
  session = start()
  say(session, FIND)
  fault = tool_lib.Answer("fault", None, "tool_died", "it is gone")
  session.answer(fault)
  assert session.ending == ("tool_died", "line 3: it is gone")
  assert not session.outbox


def test_a_value_that_fits_no_frame_is_the_tools_fault():
  session = start()
  say(session, FIND)
  session.answer(tool_lib.Answer("value", "x" * (1 << 20)))
  assert session.ending is not None
  assert session.ending[0] == "tool_error"
  assert not session.outcome().trace


BROKEN = {
  "no_object": [],
  "no_kind": {"text": "x"},
  "unknown_kind": {"kind": "please"},
  "unknown_tool": FIND | {"tool": "exec"},
  "tool_of_another_kind": FIND | {"tool": ["find"]},
  "no_arguments": FIND | {"arguments": {}},
  "more_arguments": FIND | {"arguments": {"object_name": "x", "y": 1}},
  "wrong_argument": FIND | {"arguments": {"object_name": 1}},
  "int_for_bool": LLM | {"arguments": {"question": "x", "long_answer": 1}},
  "box_outside": FIND | {"box": [0, 0, 1000, 999]},
  "box_turned_round": FIND | {"box": [9, 0, 5, 999]},
  "box_of_bools": FIND | {"box": [False, False, True, True]},
  "box_of_floats": FIND | {"box": [0.0, 0.0, 9.0, 9.0]},
  "box_of_three": FIND | {"box": [0, 0, 9]},
  "no_line": {"kind": "print", "text": "x"},
  "print_of_a_number": {"kind": "print", "text": 5, "line": 1},
  "host_only_class": {
    **{"kind": "error", "error_class": "tool_died"},
    **{"message": "x", "line": 1},
  },
  "made_up_class": {
    **{"kind": "error", "error_class": ""},
    **{"message": "x", "line": 1},
  },
  "blank_answer": {"kind": "answer", "text": " "},
  "long_answer": {"kind": "answer", "text": "x" * 401},
  "answer_of_a_number": {"kind": "answer", "text": 5},
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_the_worker_never_says_ends_the_run(name):
  session = start()
  say(session, BROKEN[name], ANSWER)
  assert session.pending is None
  assert session.ending is not None
  assert session.ending[0] == "worker_died"
  assert session.ending[1].startswith("broke the protocol: ")
  outcome = session.outcome()
  assert (outcome.status, outcome.answer) == ("killed", None)
  assert not outcome.trace


def test_bytes_that_are_no_frame_end_the_run():
  session = start()
  session.receive(b"\xff\xff\xff\xff")
  assert session.ending is not None
  assert session.ending[0] == "worker_died"


def test_nothing_counts_after_the_last_word():
  session = start()
  say(session, ANSWER, {"kind": "answer", "text": "blue"}, FIND)
  say(session, {"kind": "please"})
  assert session.outcome().answer == "red"
  assert session.pending is None


def test_wall_time_stands_still_while_a_tool_is_awaited():
  now_s = 100.0
  session = start(lambda: now_s, wall_time_s=5)
  assert session.deadline_s == 105
  now_s = 102
  say(session, FIND)
  assert session.deadline_s == math.inf
  now_s = 160
  session.answer(NONE_FOUND)
  assert session.deadline_s == 163
  now_s = 162.5
  say(session, FIND)
  session.answer(NONE_FOUND)
  assert session.deadline_s == 163
  session.expire()
  assert session.ending is not None
  assert session.ending[0] == "wall_time"


@pytest.mark.parametrize(
  ("limits", "error_class"),
  [({"max_tool_calls": 3}, "tool_calls"), ({"max_llm_calls": 2}, "llm_calls")],
)
def test_the_call_past_a_limit_is_not_made(limits, error_class):
  session = start(**limits)
  for message in (LLM, FIND, LLM):
    say(session, message)
    session.answer(tool_lib.Answer("value", [] if message is FIND else "x"))
  assert session.ending is None
  say(session, LLM)
  assert session.pending is None
  assert session.ending is not None
  assert session.ending[0] == error_class
  assert session.outcome().tool_calls == 3


def test_printed_bytes_are_counted_here_too():
  session = start(max_output_bytes=74)
  say(session, {"kind": "print", "text": "éé", "line": 1})  # 4 bytes and 32.
  say(session, {"kind": "print", "text": "abcdef", "line": 2})
  assert session.ending is None
  say(session, {"kind": "print", "text": "", "line": 3})
  assert session.ending is not None
  assert session.ending[0] == "output"


def test_what_a_trace_holds_is_counted():
  session = start(max_trace_bytes=2000)
  for _ in range(20):
    say(session, FIND)
    if session.ending is None:
      session.answer(tool_lib.Answer("value", [[0, 0, 9, 9]] * 10))
  assert session.ending is not None
  assert session.ending[0] == "output"
  assert "2000 bytes of trace; sandbox.max_trace_bytes" in session.ending[1]
  assert 1 < session.outcome().tool_calls < 20


def test_an_answer_that_grows_when_escaped_is_measured_then():
  session = start(max_answer_chars=10)
  say(session, {"kind": "answer", "text": "\x1b" * 5})
  assert session.ending is not None
  assert session.ending[0] == "bad_answer"
  assert session.outcome().answer is None


def test_an_errors_line_is_named_once_and_its_text_is_clean():
  messages = {
    "boom": "line 7: boom",
    "line 2: boom": "line 2: boom",
    "a\nb": "line 7: a\\nb",
  }
  for text, expected in messages.items():
    session = start()
    error = {"kind": "error", "error_class": "index", "line": 7}
    say(session, error | {"message": text})
    outcome = session.outcome()
    assert (outcome.status, outcome.message) == ("error", expected)


def test_a_line_that_cannot_be_is_unknown():
  session = start()
  say(session, FIND | {"line": 10**9})
  assert session.pending is not None
  assert session.pending.line == 0

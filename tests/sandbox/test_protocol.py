"""Programs past the gate that speak to the host themselves."""

import pytest

from tests.sandbox import contained

# None of these is what the worker's own code sends.
BROKEN = {
  "noise": "send_raw(bytes(range(255, -1, -1)) * 16)",
  "http": "send_raw(b'GET / HTTP/1.1')",
  "huge_length": "send_raw(b'\\xff\\xff\\xff\\xff')",
  "length_over_the_limit": "send_raw(b'\\0\\x10\\0\\1')",
  "no_json": "send_raw(b'\\0\\0\\0\\1{')",
  "no_utf8": "send_raw(b'\\0\\0\\0\\2\\xff\\xfe')",
  "empty": "send_raw(b'\\0\\0\\0\\0')",
  "pickle": "send_raw(b'\\0\\0\\0\\x14cos\\nsystem\\n(S\\'true\\'\\ntR.')",
  "deep_json": "send_raw(b'\\0\\1\\0\\0' + b'[' * 65536)",
  "endless_number": "send_raw(b'\\0\\0\\x20\\0' + b'9' * 8192)",
  "list": "send([])",
  "text": "send('answer')",
  "number": "send(1)",
  "none": "send(None)",
  "no_kind": "send({'text': 'x'})",
  "unknown_kind": "send({'kind': 'result', 'text': 'x'})",
  "kind_that_is_a_list": "send({'kind': ['answer'], 'text': 'x'})",
  "answer_without_text": "send({'kind': 'answer'})",
  "answer_of_a_number": "send({'kind': 'answer', 'text': 3})",
  "answer_of_a_list": "send({'kind': 'answer', 'text': ['x']})",
  "answer_of_nan": 'send_raw(b\'\\0\\0\\0\\x1d{"kind":"answer","text": NaN}\')',
  "answer_of_none": "send({'kind': 'answer', 'text': None})",
  "empty_answer": "send({'kind': 'answer', 'text': ' '})",
  "huge_answer": "send({'kind': 'answer', 'text': 'x' * 100_000})",
  "print_of_a_number": "send({'kind': 'print', 'text': 3, 'line': 1})",
  "print_without_line": "send({'kind': 'print', 'text': 'x'})",
  "line_that_is_text": "send({'kind': 'print', 'text': 'x', 'line': '1'})",
  "line_that_is_true": "send({'kind': 'print', 'text': 'x', 'line': True})",
  "error_that_is_none": """
send({'kind': 'error', 'error_class': 'fine', 'message': 'x', 'line': 1})""",
  "error_of_no_class": """
send({'kind': 'error', 'error_class': '', 'message': 'x', 'line': 1})""",
  "error_of_a_tool": """
send({'kind': 'error', 'error_class': 'tool_error', 'message': 'x', 'line': 1})
""",
  "error_of_the_host": """
send({'kind': 'error', 'error_class': 'wall_time', 'message': 'x', 'line': 1})
""",
  "error_without_message": """
send({'kind': 'error', 'error_class': 'name', 'line': 1})""",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_message_that_is_none_ends_the_run(ungated, name):
  body = f"{BROKEN[name].strip()}\nreturn 'red'"
  outcome = contained.run_ungated(ungated, body)
  assert (outcome.status, outcome.error_class) == ("killed", "worker_died")
  assert "broke the protocol" in outcome.message
  assert (outcome.answer, outcome.trace) == (None, ())


# "find" on a box, unless said otherwise.
CALLS = {
  "of_no_tool": "tool='eval'",
  "of_a_private_name": "tool='__init__'",
  "of_a_path": "tool='../find'",
  "of_a_number": "tool=1",
  "box_outside": "box=[0, 0, 1000, 999]",
  "box_negative": "box=[-1, 0, 9, 9]",
  "box_upside_down": "box=[9, 0, 5, 9]",
  "box_without_area": "box=[5, 5, 5, 9]",
  "box_of_fractions": "box=[0.5, 0, 9, 9]",
  "box_of_text": "box=['0', 0, 9, 9]",
  "box_of_bools": "box=[False, False, True, True]",
  "box_too_short": "box=[0, 0, 9]",
  "box_too_long": "box=[0, 0, 9, 9, 9]",
  "box_huge": "box=[0] * 100_000",
  "box_of_lists": "box=[[0], 0, 9, 9]",
  "box_as_text": "box='0 0 9 9'",
  "box_as_dict": "box={}",
  "box_huge_int": "box=[0, 0, 10 ** 4000, 9]",
  "arguments_missing": "arguments=None",
  "arguments_as_list": "arguments=['car']",
  "argument_of_none": "arguments={'object_name': None}",
  "argument_nested": "arguments={'object_name': {'a': 1}}",
  "argument_deep": "arguments={'object_name': [[['car']]]}",
  "argument_of_another_type": "arguments={'object_name': 5}",
  "argument_too_many": "arguments={'object_name': 'car', 'path': '/etc'}",
  "argument_too_few": "arguments={}",
  "argument_of_another_name": "arguments={'\\n</s>': 'car'}",
  "line_missing": "line=None",
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_the_api_does_not_make_reaches_no_tool(ungated, name):
  calls = []

  def tool(*call):
    calls.append(call)
    return []

  body = f"""
call = dict(kind="call", tool="find", box=[0, 0, 9, 9],
            arguments=dict(object_name="car"), line=1)
call.update({CALLS[name]})
send(call)
return 'red'"""
  outcome = contained.run_ungated(ungated, body, tool)
  assert (outcome.error_class, outcome.answer) == ("worker_died", None)
  assert calls == []


def test_calls_sent_ahead_are_counted(ungated):
  body = """
call = dict(kind="call", tool="image_caption", box=None, arguments={}, line=1)
send_raw(frames.encode(call) * 500)
while True: pass"""
  outcome = contained.run_ungated(ungated, body)
  assert (outcome.error_class, outcome.tool_calls) == ("tool_calls", 20)


def test_prints_sent_ahead_are_counted(ungated):
  body = """
text = frames.encode(dict(kind="print", text="", line=1))
while True: send_raw(text * 1000)"""
  assert contained.run_ungated(ungated, body).error_class == "output"


def test_a_flood_behind_a_call_is_not_kept(ungated):
  body = """
call = dict(kind="call", tool="image_caption", box=None, arguments={}, line=1)
send(call)
while True: send_raw(b"\\0" * 2 ** 20)"""
  outcome = contained.run_ungated(ungated, body)
  assert (outcome.status, outcome.answer) == ("killed", None)


def test_the_first_answer_is_the_last_word(ungated):
  body = """
send(dict(kind="answer", text="first"))
send(dict(kind="print", text="late", line=1))
send(dict(kind="answer", text="second"))
return "third" """
  outcome = contained.run_ungated(ungated, body)
  assert outcome.answer == "first"
  assert [event.value for event in outcome.trace] == ["first"]


def test_an_answer_to_no_question_is_not_taken_for_one(ungated):
  body = """
send(dict(value=[[0, 0, 9, 9]]))
return len(ImagePatch(image).find("car"))"""
  outcome = contained.run_ungated(ungated, body)
  assert (outcome.error_class, outcome.trace) == ("worker_died", ())


def test_forged_text_is_cleaned(ungated):
  body = r"""
send(dict(kind="print", text="a\nb\x1b[2J</s>", line=-5))
send(dict(kind="error", error_class="name", message="x\ny</s>" * 9999, line=1))
return "x" """
  outcome = contained.run_ungated(ungated, body)
  assert outcome.trace[0].value == "a\\nb\\x1b[2J< /s>"
  assert outcome.trace[0].line == 0
  assert "\n" not in outcome.message and "</s>" not in outcome.message
  assert len(outcome.message) <= 2000


def test_an_error_text_can_not_say_that_the_host_said_it(ungated):
  body = """
send(dict(kind="error", error_class="name", message="line 9: x", line=0))"""
  outcome = contained.run_ungated(ungated, body)
  assert (outcome.status, outcome.answer) == ("error", None)


def test_the_trace_holds_only_what_the_host_answered(ungated):
  body = """
send(dict(kind="print", text="x", line=1, tool="find", value=[[0, 0, 9, 9]]))
return "x" """
  outcome = contained.run_ungated(ungated, body)
  assert [event.tool for event in outcome.trace] == [
    "print",
    "formatting_answer",
  ]


def test_an_exit_code_is_not_an_answer(ungated):
  assert contained.run_ungated(ungated, "os._exit(0)").status == "killed"


@pytest.mark.parametrize("name", ["noise", "huge_length", "deep_json"])
def test_the_next_program_runs(ungated, name):
  contained.run_ungated(ungated, BROKEN[name])
  assert contained.is_well(ungated)

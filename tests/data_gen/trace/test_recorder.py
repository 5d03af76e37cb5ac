"""What text looks like once it is in a trace."""

import pytest

from data_gen import records
from data_gen.trace import recorder


@pytest.mark.parametrize(
  ("text", "cleaned"),
  [
    ("a red car, 3 < 4", "a red car, 3 < 4"),
    ("é 車", "é 車"),
    ("a\nb\tc\r", "a\\nb\\tc\\r"),
    ("\x1b[31m\x00", "\\x1b[31m\\x00"),
    ("a\u202eb\u2028c", "a\\u202eb\\u2028c"),
    ("\ud800", "\\ud800"),
    ("</s><pad>", "< /s>< pad>"),
    ("<extra_id_0>", "< extra_id_0>"),
    ("<|end|>", "< |end|>"),
    ("<<SYS>> [INST] [/INST]", "< < SYS>> [ INST] [ /INST]"),
    ("<script>", "< script>"),
    ("<!-- x", "< !-- x"),
    ("[1, 2]", "[1, 2]"),
  ],
)
def test_clean(text, cleaned):
  assert recorder.clean(text) == cleaned
  assert recorder.clean(cleaned) == cleaned


def test_clean_cuts_long_text():
  cleaned = recorder.clean("x" * 99, max_chars=20)
  assert cleaned == "x" * 15 + "[cut]"
  assert recorder.clean(cleaned, max_chars=20) == cleaned
  assert recorder.clean("x" * 20, max_chars=20) == "x" * 20
  assert len(recorder.clean("\n" * 20, max_chars=20)) == 20


def test_calls_as_text():
  recording = recorder.Recorder()
  box = (21, 62, 229, 271)
  recording.record_call(1, "find", None, {"object_name": "car"}, [])
  recording.record_call(2, "find", box, {"object_name": "a\nb"}, [[1, 2, 3, 4]])
  recording.record_call(3, "compute_depth", box, {}, 0.5)
  recording.record_print(4, "x\n")
  recording.record_print(5, " ")
  recording.record_output(0, "yes")
  assert [(e.step, e.line, e.text) for e in recording.trace()] == [
    (0, 1, "find('car') -> none found"),
    (1, 2, "find('a\\\\nb') on 21 62 229 271 -> 1 found: 1 2 3 4"),
    (2, 3, "compute_depth() on 21 62 229 271 -> 0.5"),
    (3, 4, "x\\n"),
    (4, 0, "Program output: yes"),
  ]


def test_events_survive_their_row():
  recording = recorder.Recorder()
  box = (21, 62, 229, 271)
  recording.record_call(2, "find", box, {"object_name": "x"}, [[1, 2, 3, 4]])
  run = records.Run("q", 0, "ok", "", "", "1", recording.trace())
  assert records.from_json(records.Run, records.to_json(run)) == run


def test_a_recorded_value_does_not_change_later():
  recording, boxes = recorder.Recorder(), [[1, 2, 3, 4]]
  recording.record_call(1, "find", None, {"object_name": "x"}, boxes)
  boxes[0][0] = 9
  assert recording.trace()[0].value == [[1, 2, 3, 4]]

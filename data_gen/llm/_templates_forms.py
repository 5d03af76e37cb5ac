"""Program templates by the form of a question.

A template's `<<name>>` is replaced by the question's own words as a Python
string, or by a method's or attribute's name where the template says so.
"""

import re
from collections.abc import Mapping

_COUNT = """\
found = image_patch.find(<<noun>>)
print(f"There are {len(found)}: {', '.join(str(p) for p in found)}.")
return formatting_answer(len(found))"""

_ASK = """\
answer = image_patch.visual_question_answering(<<question>>)
print(f"The picture shows: {answer}.")
return formatting_answer(answer)"""

_MORE = """\
found = image_patch.find(<<noun>>)
print(f"There are {len(found)}.")
return formatting_answer(len(found) > <<number:raw>>)"""

_MORE_LIST = """\
found = image_patch.find(<<noun>>)
for patch in found:
    print(f"One is at {patch}.")
return formatting_answer("yes" if len(found) > <<number:raw>> else "no")"""

_COUNT_HALF = """\
found = image_patch.find(<<noun>>)
kept = [p for p in found if p.<<axis:raw>>_center <<sign:raw>> 500]
print(f"There are {len(kept)}: {', '.join(str(p) for p in kept)}.")
return formatting_answer(len(kept))"""

_COUNT_CROP = """\
half = image_patch.crop(<<crop:raw>>)
found = half.find(<<noun>>)
print(f"In {half} there are {len(found)}.")
return formatting_answer(len(found))"""

_EXISTS = """\
found = image_patch.find(<<noun>>)
for patch in found:
    print(f"There is one at {patch}.")
return formatting_answer(len(found) > 0)"""

_COLOR = """\
answer = image_patch.visual_question_answering(<<question>>)
print(f"The color is {answer}.")
return formatting_answer(answer)"""

_COLOR_OF = """\
found = image_patch.find(<<noun>>)
if found:
    color = found[0].visual_question_answering("What color is it?")
    print(f"What is at {found[0]} is {color}.")
    return formatting_answer(color)
return formatting_answer(image_patch.visual_question_answering(<<question>>))"""

_WHICH_HALF = """\
found = image_patch.find(<<noun>>)
patch = max(found, key=lambda p: p.width * p.height)
print(f"It is at {patch}.")
first = patch.<<axis:raw>>_center <<sign:raw>> 500
return formatting_answer(<<half>> if first else <<other>>)"""

_RELATION = """\
a = image_patch.find(<<noun>>)[0]
b = image_patch.find(<<noun2>>)[0]
print(f"The first is at {a}.")
print(f"The second is at {b}.")
return formatting_answer(a.<<axis:raw>>_center <<sign:raw>> b.<<axis:raw>>_center)"""

_NEARER = """\
a = max(image_patch.find(<<noun>>), key=lambda p: p.width * p.height)
b = max(image_patch.find(<<noun2>>), key=lambda p: p.width * p.height)
a_depth, b_depth = a.compute_depth(), b.compute_depth()
print(f"The depth of {a} is {a_depth:.2f}.")
print(f"The depth of {b} is {b_depth:.2f}.")
return formatting_answer(<<yes>> if a_depth < b_depth else <<no>>)"""

_NEARER_HALF = """\
a = image_patch.crop(<<crop:raw>>)
b = image_patch.crop(<<crop2:raw>>)
print(f"{a} is at depth {a.compute_depth():.2f}.")
print(f"{b} is at depth {b.compute_depth():.2f}.")
return formatting_answer(a.compute_depth() < b.compute_depth())"""

_READ = """\
text = ocr(image_patch)
print(f"The text is: {text}.")
return formatting_answer(text)"""

_READ_LINE = """\
lines = image_patch.find("line of text")
print(f"The line is at {lines[0]}.")
return formatting_answer(ocr(lines[0]))"""

_READ_WORD = """\
lines = image_patch.find("line of text")
words = ocr(lines[0]).split()
print(f"The line at {lines[0]} begins with {words[0]}.")
return formatting_answer(words[<<index:raw>>])"""

_READ_ALL_WORD = """\
words = ocr(image_patch).split()
print(f"There are {len(words)} words.")
return formatting_answer(words[<<index:raw>>])"""

_MENTIONS = """\
text = ocr(image_patch)
is_there = <<word>>.lower() in text.lower()
print(f"The text holds the word: {is_there}.")
return formatting_answer(is_there)"""

_KNOW = """\
answer = language_question_answering(<<question>>)
print(f"It is known: {answer}.")
return formatting_answer(answer)"""

_KNOW_SEEN = """\
caption = image_patch.image_caption()
print(f"The picture shows {caption}.")
answer = language_question_answering(<<question>>)
return formatting_answer(answer)"""

_HALVES: Mapping[str, tuple[str, str, str]] = {
  "left": ("horizontal", "<", "0, 0, 500, 999"),
  "right": ("horizontal", ">", "500, 0, 999, 999"),
  "top": ("vertical", ">", "0, 500, 999, 999"),
  "bottom": ("vertical", "<", "0, 0, 999, 500"),
}
_RELATIONS: Mapping[str, str] = {
  "above": "top",
  "below": "bottom",
  "left of": "left",
  "right of": "right",
}
_COLORS = "red|orange|yellow|green|blue|purple|pink|brown|black|white|gray"
_HALF = "(?P<half>left|right|top|bottom)(?: half)?"

# (form of the question, templates with the plainest first)
_FORMS = (
  (rf"how many (?P<noun>.+?) are in the {_HALF}.*", (_COUNT_HALF, _COUNT_CROP)),
  (r"how many (?P<noun>.+?) (?:are|can|does|do)\b.*", (_COUNT, _ASK, _KNOW)),
  (r"are there more than (?P<number>\d+) (?P<noun>.+)", (_MORE, _MORE_LIST)),
  (
    r"(?:is|are) there (?:an? |any )?(?P<noun>.+?)(?: in the .+)?",
    (_EXISTS, _ASK),
  ),
  (r"what colou?r (?:is|are) (?:the )?(?P<noun>.+)", (_COLOR, _COLOR_OF)),
  (
    rf"is the (?:largest )?(?P<noun>.+) in the {_HALF} or the"
    r" (?P<other>left|right|top|bottom).*",
    (_WHICH_HALF, _ASK),
  ),
  (
    rf"is the (?P<noun>.+) (?P<relation>{'|'.join(_RELATIONS)}) the"
    r" (?P<noun2>.+)",
    (_RELATION, _ASK),
  ),
  (
    rf"is the {_HALF} of the picture nearer than the"
    r" (?P<other>left|right|top|bottom).*",
    (_NEARER_HALF, _ASK),
  ),
  (
    r"is the (?P<noun>.+) (?:nearer|closer) than the (?P<noun2>.+)",
    (_NEARER, _ASK),
  ),
  (
    r"which is (?:nearer|closer), the (?P<yes>.+) or the (?P<no>.+)",
    (_NEARER, _ASK),
  ),
  (r"what does the (?:heading|title) say", (_READ_LINE, _READ)),
  (r"what does .+ say", (_READ, _READ_LINE)),
  (r"what is the (?P<which>first|last) word .+", (_READ_WORD, _READ_ALL_WORD)),
  (r'does the .+ mention "?(?P<word>[^"]+)"?', (_MENTIONS, _READ)),
  (r"(?:what|which) (?:animal|creature).*", (_ASK, _KNOW_SEEN)),
  (r"what (?:sound|are|is) .+", (_KNOW, _ASK, _KNOW_SEEN)),
  (r"is it (?P<noun>.+)", (_ASK, _EXISTS)),
)


def programs_for(question: str) -> list[str]:
  """Programs for a question, the plainest first; never empty."""
  text = question.lower().strip().rstrip("?. ")
  for form, templates in _FORMS:
    match = re.fullmatch(form, text)
    if match:
      words = _words(question, match.groupdict())
      programs = [_fill(template, words) for template in templates]
      loose = _by_color(words)
      if loose:
        programs.insert(1, _fill(templates[0], loose))
      return programs
  words = {"question": question}
  return [_fill(_ASK, words), _fill(_KNOW, words)]


def _words(question, groups):
  """What the templates' names stand for."""
  words = {"question": question, "yes": "yes", "no": "no"} | {
    k: v for k, v in groups.items() if v is not None
  }
  if "yes" in groups:
    words |= {"noun": words["yes"], "noun2": words["no"]}
  if "relation" in groups:
    words["half"] = _RELATIONS[words["relation"]]
  if "half" in words:
    axis, sign, crop = _HALVES[words["half"]]
    words |= {"axis": axis, "sign": sign, "crop": crop}
  if "other" in words:
    words["crop2"] = _HALVES[words["other"]][2]
  if "which" in words:
    words["index"] = "0" if words["which"] == "first" else "-1"
  return words


def _by_color(words):
  """The same with "red object" for "red motorcycle"; None without a colour."""
  loose = {
    k: re.sub(rf"^({_COLORS}) .+", r"\1 object", words[k])
    for k in ("noun", "noun2")
    if k in words
  }
  if all(words[k] == v for k, v in loose.items()):
    return None
  return words | loose


def _fill(template, words):
  """A whole program; `<<name:raw>>` is put in as it is."""

  def put(match):
    name, raw = match.groups()
    return words[name] if raw else repr(words[name])

  body = re.sub(r"<<(\w+)(:raw)?>>", put, template)
  indented = "\n".join("    " + line for line in body.splitlines())
  return (
    "def execute_command(image):\n"
    "    image_patch = ImagePatch(image)\n"
    f"{indented}\n"
  )

"""Loads a prompt: a text file of this folder, named in the config.

A file's first line names the program API that its examples use, as in
"profile: vpd" (see `data_gen.tools.profiles`). The sections [system] and [user]
follow, in that order, with placeholders <<name>> that `Prompt.messages` fills
in. A prompt that has changed gets a new name (vpd_v2.txt), so that a name in a
record says what was asked.
"""

import dataclasses
import hashlib
import importlib.resources
import re

from data_gen.llm import client

_PROFILE = re.compile(r"profile: (\w+)\n")
_SECTION = re.compile(r"^\[(system|user)\]\n", re.MULTILINE)
_PLACEHOLDER = re.compile(r"<<(\w+)>>")


@dataclasses.dataclass(frozen=True)
class Prompt:
  """A named prompt.

  Attributes:
    name: of its file, without ".txt".
    profile: the program API that its examples use.
    text: with its placeholders, without the line that names the API.
  """

  name: str
  profile: str
  text: str

  @property
  def digest(self) -> str:
    """Short hash of the text."""
    return hashlib.sha256(self.text.encode()).hexdigest()[:8]

  def filled(self, **values: str) -> "Prompt":
    """With some placeholders filled in; the name stays."""
    text = _PLACEHOLDER.sub(lambda m: values.get(m[1], m[0]), self.text)
    return dataclasses.replace(self, text=text)

  def messages(self, **values: str) -> tuple[client.Message, ...]:
    """The conversation, with every placeholder filled in.

    A value takes one line: its white space becomes single blanks, so that a
    question cannot add lines of its own.

    Raises:
      ValueError: if a placeholder has no value.
    """
    missing = sorted(set(_PLACEHOLDER.findall(self.text)) - set(values))
    if missing:
      raise ValueError(f"prompt {self.name!r} needs values for {missing}")
    flat = {name: " ".join(value.split()) for name, value in values.items()}
    parts = _SECTION.split(self.filled(**flat).text)[1:]
    return tuple(
      client.Message(role, content.strip() + "\n")
      for role, content in zip(parts[::2], parts[1::2])
    )


def load(name: str) -> Prompt:
  """Reads a prompt file.

  Raises:
    KeyError: if there is none; lists those that exist.
    ValueError: if it has no section [user], or does not name its API.
  """
  folder = importlib.resources.files("data_gen.prompts")
  known = sorted(
    f.name.removesuffix(".txt")
    for f in folder.iterdir()
    if f.name.endswith(".txt")
  )
  if name not in known:
    raise KeyError(f"data_gen/prompts has no prompt {name!r}. It has: {known}.")
  text = (folder / f"{name}.txt").read_text(encoding="utf-8")
  return parse(name, text)


def parse(name: str, text: str) -> Prompt:
  """A prompt of a file's text.

  Raises:
    ValueError: if it has no section [user], or does not name its API.
  """
  if "[user]\n" not in text:
    raise ValueError(f"prompt {name!r} has no section [user]")
  profile = _PROFILE.match(text)
  if profile is None:
    raise ValueError(
      f"prompt {name!r} does not say which API its programs use; its first "
      "line must be such as 'profile: vpd'"
    )
  return Prompt(name, profile[1], text[profile.end() :])

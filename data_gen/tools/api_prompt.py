"""Renders a program API as text: signatures and docstrings, for a prompt."""

import inspect
import re
import textwrap

_MODULE = re.compile(r"\bdata_gen\.tools\.\w+\.")


def render(patch: type, functions: type) -> str:
  """The API as a Python stub, in the order of the code.

  Args:
    patch: the class that programs know as ImagePatch.
    functions: a class whose public methods are functions of the API.
  """
  stubs = ["class ImagePatch:\n" + _docstring(patch, indent="  ")]
  stubs.append(_stub(vars(patch)["__init__"], indent="  "))
  stubs += [_stub(getattr(patch, n), indent="  ") for n in public(patch)]
  stubs += [
    _stub(getattr(functions, name), indent="").replace("(self, ", "(")
    for name in public(functions)
  ]
  return "\n\n".join(stubs)


def public(cls: type) -> list[str]:
  """Names of the public methods that a class itself defines."""
  return [
    name
    for name, member in vars(cls).items()
    if not name.startswith("_") and inspect.isfunction(member)
  ]


def _stub(function, indent):
  signature = str(inspect.signature(function))
  signature = signature.replace("'ImagePatch'", "ImagePatch")
  signature = _MODULE.sub("", signature)
  body = _docstring(function, indent="  ")
  stub = f"def {function.__name__}{signature}:\n{body}"
  return textwrap.indent(stub, indent)


def _docstring(documented, indent):
  doc = inspect.getdoc(documented) or ""
  end = "\n" if "\n" in doc else ""
  return textwrap.indent(f'"""{doc}{end}"""', indent)

"""From a writer's completion to a checked syntax tree.

`extract` finds the program in a completion: inside its code fence, or between
its chatter. `parse` lets ordinary Python through and refuses, with the line
and the reason, what a visual program has no use for. The kernel holds a
program back (`data_gen.sandbox`); this gate gives it a clear error first.

Standard library only: the contained worker runs it too.
"""

import ast
import builtins
import dataclasses
import keyword
import re
import types
from collections.abc import Mapping

NAME = "execute_command"
MAX_CHARS = 20_000
MAX_COMPLETION_CHARS = 100_000
MAX_DEPTH = 250  # Of nodes in each other: all Pythons take so many.
_FORMAT = "format"
SAFE_FORMAT = "__safe_format__"  # What `text.format` becomes.

# Builtins that a program has, beside the exceptions; `type` with one argument.
BUILTINS = frozenset(
  """abs all any ascii bin bool bytes callable chr complex dict divmod enumerate
  filter float format frozenset hasattr hash hex int isinstance issubclass
  iter len list map max min next oct ord pow print range repr reversed round set
  slice sorted str sum tuple type zip""".split()
)
# Names that Python has and a program has not; others are plain name errors.
_REFUSED_NAMES = frozenset(
  """BaseException GeneratorExit KeyboardInterrupt SystemExit aiter anext
  breakpoint bytearray classmethod compile delattr dir eval exec exit getattr
  globals help input locals memoryview object open property quit setattr
  staticmethod super vars""".split()
)

_STATEMENTS = """FunctionDef Return Delete Assign AugAssign AnnAssign For While
  If Raise Try Assert Import ImportFrom Nonlocal Expr Pass Break Continue Match
  ExceptHandler match_case MatchValue MatchSingleton MatchSequence MatchMapping
  MatchClass MatchStar MatchAs MatchOr"""
_EXPRESSIONS = """BoolOp NamedExpr BinOp UnaryOp Lambda IfExp Dict Set ListComp
  SetComp DictComp GeneratorExp Yield YieldFrom Compare Call FormattedValue
  JoinedStr Constant Attribute Subscript Starred Name List Tuple Slice
  comprehension arguments arg keyword alias"""
_ALLOWED_NODES = frozenset(
  getattr(ast, name)
  for name in ("Module", *_STATEMENTS.split(), *_EXPRESSIONS.split())
)
# Fields whose nodes are operators or say how a name is used: all are allowed.
_PLAIN_FIELDS = frozenset(("ctx", "op", "ops"))
_NAME_FIELDS = frozenset(("id", "name", "arg", "asname", "rest", "module"))
# By the kind of node: its fields with nodes to check, and those with a name.
_FIELDS: Mapping[type, tuple[tuple[str, ...], tuple[str, ...]]] = (
  types.MappingProxyType(
    {
      kind: (
        tuple(f for f in kind._fields if f not in _PLAIN_FIELDS),
        tuple(f for f in kind._fields if f in _NAME_FIELDS),
      )
      for kind in _ALLOWED_NODES
    }
  )
)

_NODE_WORDS = types.MappingProxyType(
  {
    "ClassDef": "class definitions",
    "Global": "global statements",
    "With": "with statements",
    "AsyncFunctionDef": "async functions",
    "Await": "await",
    "AsyncFor": "async for",
    "AsyncWith": "async with",
    "TryStar": "except*",
  }
)
_INNER_ATTRIBUTE = re.compile(r"_|(gi|cr|ag|tb|co|func)_")
_INNER_ATTRIBUTES = frozenset(
  """mro obj format_map with_traceback f_back f_builtins f_code f_globals
  f_locals f_trace""".split()
)

_FENCE = re.compile(
  r"^[ \t]*(?:```|~~~)[^\n]*\n(.*?)(?:^[ \t]*(?:```|~~~)|\Z)", re.S | re.M
)
_PROSE = re.compile(
  r"([A-Za-z][\w']*)(?:[,.!?]? +[A-Za-z`*\"]|: (?!.*=)|[.!:?]$)"
)
_PROSE_MARK = re.compile(r"[-*>] |\*\*|#{2,} |[0-9]+[.)] |```|~~~")
_TOP_LEVEL = (
  ast.FunctionDef,
  ast.Import,
  ast.ImportFrom,
  ast.Assign,
  ast.AnnAssign,
)


class ParseError(ValueError):
  """A program that the gate does not let through.

  Attributes:
    error_class: "syntax" or "refused".
    line: of the program, from 1; 0 if unknown.
  """

  def __init__(self, error_class: str, line: int, message: str):
    super().__init__(f"line {line}: {message}" if line else message)
    self.error_class = error_class
    self.line = line


@dataclasses.dataclass(frozen=True)
class ParsedProgram:
  """A program that passed the gate.

  Attributes:
    text: the program, as `extract` returns it; lines count from its first.
    tree: checked, without annotations; `text.format` is made safe in it.
  """

  text: str
  tree: ast.Module


def extract(completion: str) -> str:
  """The program inside a completion; `extract(extract(x)) == extract(x)`.

  Takes the first code fence with `def execute_command`, else the first fence,
  else the text without the prose before and after. A completion that goes on
  inside the function (an indented body) gets its `def` line.
  """
  text = completion.replace("\r\n", "\n").replace("\r", "\n")
  fences = [match.group(1) for match in _FENCE.finditer(text)]
  if fences:
    with_name = [fence for fence in fences if f"def {NAME}" in fence]
    text = (with_name or fences)[0]
  text = text.strip("\n")
  if f"def {NAME}" not in text and text[:1] in (" ", "\t"):
    text = f"def {NAME}(image):\n{text}"
  lines = text.split("\n")
  mains = [i for i, line in enumerate(lines) if line.startswith(f"def {NAME}")]
  if mains:
    prose = [i for i, line in enumerate(lines) if _is_prose(line)]
    start = max((i + 1 for i in prose if i < mains[0]), default=0)
    end = min((i for i in prose if i > mains[0]), default=len(lines))
    lines = lines[start:end]
  return "\n".join(lines).strip("\n").rstrip()


def parse(completion: str) -> ParsedProgram:
  """Extracts and checks a program.

  Raises:
    ParseError: if it is no Python ("syntax"), or holds what a program may not
      use ("refused"); the message names the line and the thing.
  """
  if len(completion) > MAX_COMPLETION_CHARS:
    raise ParseError(
      "refused", 0, f"a completion of over {MAX_COMPLETION_CHARS} characters"
    )
  text = extract(completion)
  if len(text) > MAX_CHARS:
    raise ParseError(
      "refused", 0, f"{len(text)} characters; a program has at most {MAX_CHARS}"
    )
  try:
    tree = ast.parse(text)
    if _check(tree):
      tree = ast.fix_missing_locations(_Rewriter().visit(tree))
  except SyntaxError as e:
    raise ParseError("syntax", e.lineno or 0, str(e.msg)) from e
  except (RecursionError, MemoryError) as e:
    raise ParseError("syntax", 0, "too deeply nested") from e
  except ParseError:
    raise
  except ValueError as e:  # Null bytes, lone surrogates, endless numbers.
    raise ParseError("syntax", 0, str(e)) from e
  return ParsedProgram(text, tree)


def _is_prose(line):
  """Whether an unindented line is a sentence, a heading or a list item."""
  if _PROSE_MARK.match(line):
    return True
  words = _PROSE.match(line)
  return words is not None and not keyword.iskeyword(words.group(1))


def _check(tree):
  """Refuses what a program has no use for; whether `_Rewriter` has work."""
  nodes = _nodes(tree)
  bound = _bound_names(nodes)
  has_work = False
  for node in nodes:
    kind = type(node)
    if kind not in _ALLOWED_NODES:
      _refuse(
        node, f"{_NODE_WORDS.get(kind.__name__, kind.__name__)} cannot be used"
      )
    _check_names(node)
    if kind is ast.Name:
      if node.id in _REFUSED_NAMES and node.id not in bound:
        _refuse(node, f"{node.id!r} cannot be used")
    elif kind is ast.Attribute:
      has_work |= node.attr == _FORMAT
    elif kind is ast.arg:
      has_work |= node.annotation is not None
    elif kind is ast.FunctionDef:
      has_work |= node.returns is not None
      if node.decorator_list:
        _refuse(node, "decorators cannot be used")
    elif kind is ast.AnnAssign:
      has_work = True
    elif kind is ast.Import or kind is ast.ImportFrom:
      _check_import(node)
  _check_top_level(tree)
  return has_work


def _nodes(tree):
  """As `ast.walk`, less operators; of a node that is refused, none inside."""
  nodes, level, depth = [], [tree], 0
  while level:
    depth += 1
    if depth > MAX_DEPTH:
      raise ParseError("syntax", 0, "too deeply nested")
    nodes += level
    below = []
    for node in level:
      for field in _FIELDS.get(type(node), ((), ()))[0]:
        value = getattr(node, field, None)
        if isinstance(value, list):
          below += [item for item in value if isinstance(item, ast.AST)]
        elif isinstance(value, ast.AST):
          below.append(value)
    level = below
  return nodes


def is_builtin(name: str) -> bool:
  """Whether a program has this builtin."""
  value = getattr(builtins, name, None)
  return name in BUILTINS or (
    isinstance(value, type)
    and issubclass(value, Exception)
    and not issubclass(value, OSError | ImportError | Warning)
  )


def is_inner_attribute(name: str) -> bool:
  """Whether an attribute leads from a value to the interpreter's inside."""
  return bool(_INNER_ATTRIBUTE.match(name)) or name in _INNER_ATTRIBUTES


def _bound_names(nodes):
  names = set()
  for node in nodes:
    kind = type(node)
    if kind is ast.Name:
      if type(node.ctx) is not ast.Load:
        names.add(node.id)
    elif kind is ast.arg:
      names.add(node.arg)
    elif kind in (ast.FunctionDef, ast.ExceptHandler, ast.MatchAs):
      names.add(node.name)
    elif kind is ast.alias:
      names.add(node.asname or node.name)
  return names


def _check_names(node):
  """No dunder names, no underscore attributes, in any place they can stand."""
  kind = type(node)
  if kind is ast.Attribute:
    attributes = [node.attr]
  elif kind is ast.MatchClass:
    attributes = node.kwd_attrs
  else:
    attributes = ()
  for attribute in attributes:
    if is_inner_attribute(attribute):
      _refuse(node, f"attribute {attribute!r} cannot be used")
  for field in _FIELDS[kind][1]:
    name = getattr(node, field)
    if isinstance(name, str) and name.startswith("__"):
      _refuse(node, f"name {name!r} cannot be used")
  if kind is ast.Nonlocal:
    if any(name.startswith("__") for name in node.names):
      _refuse(node, f"names {node.names} cannot be used")


def _check_import(node):
  if isinstance(node, ast.ImportFrom):
    modules = ["." * node.level + (node.module or "")]
    if any(alias.name.startswith("_") for alias in node.names):
      _refuse(node, "underscore names cannot be imported")
  else:
    modules = [alias.name for alias in node.names]
  for module in modules:
    if module != "math":
      _refuse(node, f"import of {module!r}; only math can be imported")


def _check_top_level(tree):
  """Definitions, constants and imports only; one `execute_command(image)`."""
  mains = []
  for node in tree.body:
    is_docstring = isinstance(node, ast.Expr) and isinstance(
      node.value, ast.Constant
    )
    if not is_docstring and not isinstance(node, _TOP_LEVEL):
      _refuse(node, "only definitions can stand outside functions")
    if isinstance(node, ast.FunctionDef) and node.name == NAME:
      mains.append(node)
  if len(mains) != 1:
    raise ParseError(
      "refused",
      mains[1].lineno if mains else 0,
      f"expected one function {NAME}(image), found {len(mains)}",
    )
  arguments = mains[0].args
  positional = arguments.posonlyargs + arguments.args
  required = len(positional) - len(arguments.defaults)
  has_required_keyword = any(d is None for d in arguments.kw_defaults)
  if required > 1 or not positional or has_required_keyword:
    _refuse(mains[0], f"{NAME} must take one argument, the image")


def _refuse(node, message):
  raise ParseError("refused", getattr(node, "lineno", 0), message)


class _Rewriter(ast.NodeTransformer):
  """Drops annotations, and sends `text.format` through the safe formatter."""

  def visit_FunctionDef(self, node):
    node.returns = None
    return self.generic_visit(node)

  def visit_arg(self, node):
    node.annotation = None
    return node

  def visit_AnnAssign(self, node):
    self.generic_visit(node)
    if node.value is None:
      return ast.copy_location(ast.Pass(), node)
    assign = ast.Assign(targets=[node.target], value=node.value)
    return ast.copy_location(assign, node)

  def visit_Attribute(self, node):
    self.generic_visit(node)
    if node.attr != _FORMAT or not isinstance(node.ctx, ast.Load):
      return node
    name = ast.Name(id=SAFE_FORMAT, ctx=ast.Load())
    call = ast.Call(func=name, args=[node.value], keywords=[])
    return ast.copy_location(call, node)

"""Hostile programs that the gate refuses, and ways round it that lead nowhere."""

import pytest

from tests.sandbox import contained

IMPORTS = {
  "os": "import os\nreturn os.getcwd()",
  "sys": "import sys\nreturn str(sys.modules)",
  "ctypes": "import ctypes\nreturn 'x'",
  "builtins": "import builtins\nreturn 'x'",
  "from": "from subprocess import run\nreturn run('ls')",
  "hidden_in_a_list": "import math, socket\nreturn 'x'",
  "under_another_name": "import pickle as math\nreturn 'x'",
  "submodule": "import os.path\nreturn 'x'",
  "of_math_that_is_none": "import math.os\nreturn 'x'",
  "relative": "from . import program\nreturn 'x'",
  "relative_math": "from .math import x\nreturn 'x'",
  "private": "from math import __loader__\nreturn 'x'",
  "future": "from __future__ import annotations\nreturn 'x'",
  "own_package": "from data_gen.sandbox import program\nreturn 'x'",
  "in_a_branch": "if False:\n  import os\nreturn 'x'",
  "in_a_try": "try:\n  import os\nexcept Exception:\n  return 'x'",
  "dunder_import": "return __import__('os').getcwd()",
  "as_a_dunder": "import math as __builtins__\nreturn 'x'",
}

BUILTINS = {
  "open_to_read": "return open('/etc/passwd').read()",
  "open_to_write": "open('/tmp/out', 'w').write('x')",
  "eval": "return eval('1')",
  "exec": "exec('x = 1')",
  "compile": "return compile('1', '', 'eval')",
  "globals": "return str(globals())",
  "locals": "return str(locals())",
  "vars": "return str(vars(image))",
  "dir": "return str(dir(image))",
  "getattr": "return getattr(image, '_call')",
  "setattr": "setattr(image, '_call', print)",
  "delattr": "delattr(image, '_call')",
  "super": "return super()",
  "object": "return object",
  "property": "return property(print)",
  "memoryview": "return memoryview(b'x')",
  "breakpoint": "breakpoint()",
  "input": "return input()",
  "exit": "exit(0)",
  "help": "help()",
  "system_exit": "raise SystemExit",
  "base_exception": "try:\n  1 / 0\nexcept BaseException:\n  return 'x'",
  "dunder_builtins": "return __builtins__",
  "dunder_build_class": "return __build_class__",
  "dunder_name": "return __name__",
}

WALKS = {
  "class": "return str(().__class__)",
  "bases": "return str(int.__bases__)",
  "subclasses": "return str(().__class__.__base__.__subclasses__())",
  "mro": "return str(int.mro())",
  "dict": "return str(image.__dict__)",
  "slots": "return str(ImagePatch.__slots__)",
  "private": "return str(ImagePatch(image)._image)",
  "private_method": "return ImagePatch(image)._ask('find', object_name='x')",
  "function_globals": "return str(execute_command.__globals__)",
  "function_code": "f = lambda: 1\nreturn str(f.__code__)",
  "function_closure": "f = lambda: image\nreturn str(f.__closure__)",
  "defaults": "f = lambda a=1: a\nf.__defaults__ = (2,)\nreturn str(f())",
  "bound_self": "return str(print.__self__)",
  "bound_function": "return str(ocr.__func__)",
  "module_loader": "import math\nreturn str(math.__loader__)",
  "module_spec": "import math\nreturn str(math.__spec__)",
  "generator_frame": "g = (x for x in [1])\nreturn str(g.gi_frame)",
  "generator_code": "g = (x for x in [1])\nreturn str(g.gi_code)",
  "generator_from": "g = (x for x in [1])\nreturn str(g.gi_yieldfrom)",
  "coroutine_frame": "return str(image.cr_frame)",
  "async_generator_frame": "return str(image.ag_frame)",
  "frame_back": "return str(image.f_back)",
  "frame_globals": "return str(image.f_globals)",
  "frame_builtins": "return str(image.f_builtins)",
  "frame_locals": "return str(image.f_locals)",
  "code_constants": "return str(image.co_consts)",
  "traceback": "try:\n  1 / 0\nexcept Exception as e:\n  e.__traceback__",
  "traceback_frame": "return str(image.tb_frame)",
  "traceback_next": "return str(image.tb_next)",
  "with_traceback": "ValueError().with_traceback(None)",
  "context": "try:\n  1 / 0\nexcept Exception as e:\n  return e.__context__",
  "error_object": "try:\n  [].x\nexcept AttributeError as e:\n  return e.obj",
  "deleted": "del ImagePatch.__init__\nreturn 'x'",
  "assigned": "ImagePatch.__eq__ = lambda a, b: True\nreturn 'x'",
  "augmented": "ImagePatch.__name__ += 'x'\nreturn 'x'",
  "annotated": "image._call: int = 1\nreturn 'x'",
  "loop_target": "for image._call in [1]: pass\nreturn 'x'",
  "comprehension_target": "[0 for image._call in [1]]\nreturn 'x'",
  "starred_target": "a, *image._call = [1, 2]\nreturn 'x'",
  "in_a_format": "return f'{image.__class__}'",
  "in_a_format_spec": "return f'{1:{image.__class__}}'",
  "in_a_default": "f = lambda a=image.__class__: a\nreturn str(f())",
  "in_an_annotation": "x: image.__class__ = 1\nreturn 'x'",
  "format_map": "return '{a}'.format_map({'a': 1})",
  "match_class": "match image:\n  case object(__class__=c):\n    return str(c)",
  "match_private": "match image:\n  case ImagePatch(_image=c):\n    return c",
  "match_capture": "match image:\n  case __builtins__:\n    return 'x'",
  "match_rest": "match {}:\n  case {**__builtins__}:\n    return 'x'",
  "dunder_argument": "f = lambda __builtins__: 1\nreturn 'x'",
  "dunder_positional": "def f(__import__, /): return 1\nreturn 'x'",
  "dunder_keyword": "return str(dict(__class__=1))",
  "dunder_variable": "__builtins__ = {}\nreturn 'x'",
  "dunder_walrus": "return (__builtins__ := 'x')",
  "dunder_except": "try:\n  1 / 0\nexcept Exception as __e__:\n  return 'x'",
  "dunder_function": "def __getattr__(n): return n\nreturn 'x'",
  "dunder_nonlocal": "__x__ = 1\ndef f():\n  nonlocal __x__\nreturn 'x'",
}

STATEMENTS = {
  "class": "class A: pass\nreturn 'x'",
  "metaclass": "class A(metaclass=type): pass\nreturn 'x'",
  "decorator": "@print\ndef f(): pass\nreturn 'x'",
  "global": "global x\nx = 1\nreturn 'x'",
  "async_function": "async def f(): pass\nreturn 'x'",
  "await": "async def f(): await image\nreturn 'x'",
  "with": "with image: pass\nreturn 'x'",
  "except_star": "try:\n  pass\nexcept* ValueError:\n  pass\nreturn 'x'",
  "too_long": "x = 1\n" * 10000 + "return 'x'",
}


@pytest.mark.parametrize("name", IMPORTS)
def test_import(executor, name):
  assert_refused(executor, IMPORTS[name])


@pytest.mark.parametrize("name", BUILTINS)
def test_builtin(executor, name):
  assert_refused(executor, BUILTINS[name])


@pytest.mark.parametrize("name", WALKS)
def test_walk_to_the_inside(executor, name):
  assert_refused(executor, WALKS[name])


@pytest.mark.parametrize("name", STATEMENTS)
def test_statement(executor, name):
  assert_refused(executor, STATEMENTS[name])


def assert_refused(executor, body):
  outcome = contained.run(executor, body)
  assert (outcome.status, outcome.error_class) == ("refused", "refused")
  assert outcome.trace == ()


MAIN = "def execute_command(image):\n  return 'x'\n"
WHOLE_TEXTS = {
  "code_at_import": f"print('x')\n{MAIN}",
  "loop_at_import": f"while True: pass\n{MAIN}",
  "second_main": MAIN + MAIN,
  "no_main": "def main(image):\n  return 'x'\n",
  "decorated_main": f"@print\n{MAIN}",
  "async_main": f"async {MAIN}",
  "main_that_wants_the_answer": MAIN.replace(
    "image", "image, possible_answers"
  ),
  "endless_completion": "#" * 200_000 + "\n" + MAIN,
}


@pytest.mark.parametrize("name", WHOLE_TEXTS)
def test_whole_text(executor, name):
  outcome = executor.run(WHOLE_TEXTS[name], contained.no_tool)
  assert (outcome.status, outcome.error_class) == ("refused", "refused")


# What parses and passes comes to nothing; the error class of its end.
BLOCKED = {
  "format_private": ("return '{0._image}'.format(ImagePatch(image))", "value"),
  "format_class": ("f = '{0.__class__}'\nreturn f.format(image)", "value"),
  "format_index": ("return '{0[__class__]}'.format({})", "value"),
  "format_nested": ("return '{:{0.__class__}}'.format(1)", "value"),
  "format_keyword": ("return '{a.__init__}'.format(a=image)", "value"),
  "format_frame": ("return '{0.gi_frame}'.format(x for x in [])", "value"),
  "format_by_type": ("return str.format('{}', 1)", "attribute"),
  "format_mapped": ("return list(map(str.format, ['{}'], [1]))", "attribute"),
  "format_as_key": ("f = image.format\nreturn f(1)", "attribute"),
  "type_of_three": ("return type('A', (), {})", "arity"),
  "type_keyword": ("return type(image, metaclass=1)", "arity"),
  "type_of_a_class": ("return type(int)('A', (), {})", "type"),
  "metaclass_by_type": ("M = type(type(1))\nreturn str(M)", "type"),
  "set_box": ("ImagePatch(image).left = 5", "attribute"),
  "delete_box": ("del ImagePatch(image).left", "attribute"),
  "new_attribute": ("ImagePatch(image).x = 5", "attribute"),
  "attribute_of_image": ("image.x = 5", "attribute"),
  "method_of_a_builtin": ("str.upper = len", "type"),
  "own_open": ("return (open := open)('/etc/passwd')", "name"),
  "own_eval": ("eval = eval\nreturn eval('1')", "name"),
  "image_is_opaque": ("return image.size", "attribute"),
  "image_is_no_array": ("return image[0]", "type"),
  "image_has_no_path": ("return image.filename", "attribute"),
  "patch_of_a_path": ("return ImagePatch('/etc/passwd')", "type"),
  "patch_of_a_box": ("return ImagePatch(image, 0, 0, 5, 5)", "arity"),
  "patch_has_no_pixels": (
    "return ImagePatch(image).cropped_image",
    "attribute",
  ),
  "math_has_nothing_else": ("import math\nreturn math.os", "attribute"),
  "gold_answer": ("return possible_answers[0]", "name"),
  "question": ("return query", "name"),
  "api_module": ("return api", "name"),
  "frames_module": ("return frames", "name"),
  "name_of_the_safe_format": ("return hasattr(safe_format, 'x')", "name"),
  "unpickle": ("return b'cos\\nsystem\\n'.loads()", "attribute"),
  "wrong_main": ("return execute_command()", "arity"),
  "async_comprehension": ("return [x async for x in image]", "syntax"),
  "null_byte": ("return '\0'", "syntax"),
  "surrogate": ("return '\ud800'", "syntax"),
  "endless_number": ("return " + "9" * 5000, "syntax"),
  "deep_parentheses": ("return " + "(" * 500 + ")" * 500, "syntax"),
  "deep_operators": ("return " + "-" * 9000 + "1", "syntax"),
  "deep_attributes": ("return image" + ".a" * 9000, "syntax"),
  "deep_calls": ("return f" + "()" * 9000, "syntax"),
  "deep_blocks": (
    "\n".join(" " * i + "if 1:" for i in range(150)),
    "syntax",
  ),
  "deep_loops": (
    "\n".join(" " * i + "for x in image:" for i in range(25)) + " pass",
    "syntax",
  ),
}


@pytest.mark.parametrize("name", BLOCKED)
def test_blocked(executor, name):
  body, error_class = BLOCKED[name]
  outcome = contained.run(executor, body)
  assert (outcome.error_class, outcome.answer) == (error_class, None)


def test_attributes_cannot_be_named_by_a_match_class(executor):
  body = """
def is_any(cls, value): return True
def f(): pass
Meta = type(int)("Meta", (type(int),), {"__instancecheck__": is_any})
Inside = Meta("Inside", (), {"__match_args__": ("__globals__",)})
match f:
  case Inside(names):
    return str(len(names))
return "none" """
  assert contained.run(executor, body).status != "ok"


REBOUND = {
  "function": "def formatting_answer(x): return 'forged'",
  "constant": "ImagePatch = None",
  "builtin": "str = int = len = print = None",
  "exception": "MemoryError = RecursionError = Exception = None",
  "safe_format": "format = None",
  "module": "import math\nmath.floor = math.inf = None",
  "method": "ImagePatch.find = lambda patch, name: ['forged'] * 9",
  "property": "ImagePatch.left = 5",
  "error_class": (
    "try:\n  ImagePatch(image).find(3)\nexcept Exception as e:\n"
    "  type(e).__x = None"
  ),
}


@pytest.mark.parametrize("name", REBOUND)
def test_names_that_a_program_rebinds_are_its_own(executor, name):
  contained.run(executor, REBOUND[name] + "\nreturn 'x'")
  assert contained.is_well(executor)


def test_a_forged_image_gives_no_call_to_the_host(executor):
  calls = []

  def tool(*call):
    calls.append(call)
    return []

  body = """
forged = type(image)(lambda tool, box, arguments: [["a", 1, 2, 10 ** 30]])
return ocr(ImagePatch(forged).find("x")[0])"""
  outcome = contained.run(executor, body, tool)
  assert (outcome.error_class, calls) == ("worker_died", [])

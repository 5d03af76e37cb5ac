"""Ordinary programs, which a sandbox must let run; what each answers."""

import pytest

from tests.sandbox import contained

DEPTHS = {0: 3.5, 100: 2.0, 600: 1.0, 500: 0.5}


def seeing_tool(call, box, arguments):
  """Three cars, of which the left one is red, and a dog."""
  if call == "find":
    return contained.BOXES.get(arguments["object_name"], [])
  if call == "visual_question_answering":
    question = arguments["question"]
    if "color" in question:
      return "red" if box[1] == 0 else "blue"
    return "yes" if "car" in question else "2 dogs"
  if call == "compute_depth":
    return DEPTHS[box[0]]
  if call == "language_question_answering":
    return "wool" if not arguments["long_answer"] else "It gives wool."
  return {"ocr": "STOP  25 mph", "image_caption": "a red car"}[call]


LANGUAGE = {
  "list_comprehension": ("return [x * x for x in range(4) if x % 2]", "1, 9"),
  "nested_comprehension": (
    "return [x + y for x in 'ab' for y in 'cd']",
    "ac, ad, bc, bd",
  ),
  "set_comprehension": ("return sorted({c for c in 'banana'})", "a, b, n"),
  "dict_comprehension": (
    "d = {k: len(k) for k in ['a', 'bb']}\nreturn d['bb']",
    "2",
  ),
  "generator_expression": ("return sum(x for x in range(5))", "10"),
  "closure": (
    "def adder(n):\n  return lambda x: x + n\nreturn adder(2)(3)",
    "5",
  ),
  "nonlocal": (
    """
n = 0
def add():
  nonlocal n
  n += 2
add(); add()
return n""",
    "4",
  ),
  "generator": (
    """
def first(n):
  for i in range(n):
    yield i
return list(first(3))""",
    "0, 1, 2",
  ),
  "generator_send": (
    """
def echo():
  got = yield 'a'
  yield got * 2
g = echo()
next(g)
return g.send('b')""",
    "bb",
  ),
  "yield_from": (
    "def g():\n  yield from [1, 2]\n  return 3\nreturn list(g())",
    "1, 2",
  ),
  "lambda_default": ("f = lambda a, b=2, *c, d=4: a + b + d\nreturn f(1)", "7"),
  "try_except_else_finally": (
    """
said = []
try:
  x = int('3')
except ValueError:
  said.append('bad')
else:
  said.append('good')
finally:
  said.append('end')
return said""",
    "good, end",
  ),
  "except_tuple_as": (
    "try:\n  [][0]\nexcept (IndexError, KeyError) as e:\n  return str(e)",
    "list index out of range",
  ),
  "raise_from": (
    """
try:
  try:
    {}['a']
  except KeyError as e:
    raise ValueError('none') from e
except ValueError as e:
  return e.args[0]""",
    "none",
  ),
  "bare_except": ("try:\n  1 / 0\nexcept:\n  return 'no'", "no"),
  "assert": (
    "try:\n  assert 1 == 2, 'odd'\nexcept AssertionError as e:\n  return str(e)",
    "odd",
  ),
  "match_values": (
    """
match len('abc'):
  case 0: return 'none'
  case 1 | 2: return 'few'
  case n if n > 2: return 'many' """,
    "many",
  ),
  "match_structure": (
    """
match {"at": (1, 2), "name": "car"}:
  case {"at": [x, y], "name": str(name), **rest}:
    return f"{name} {x} {y} {len(rest)}" """,
    "car 1 2 0",
  ),
  "match_star": (
    "match [1, 2, 3]:\n  case [a, *rest]:\n    return rest",
    "2, 3",
  ),
  "walrus": ("if (n := len('abc')) > 2:\n  return n", "3"),
  "f_string_specs": (
    "x = 3.14159\nreturn f'{x:.2f}|{7:03d}|{\"a\":>3}|{x!r:.4}|{1000:,}'",
    "3.14|007|  a|3.14|1,000",
  ),
  "f_string_nested": ("w = 5\nreturn f'{\"a\":*^{w}}'", "**a**"),
  "f_string_equals": ("n = 2\nreturn f'{n=}'", "n=2"),
  "format_method": (
    "return '{} {1[a]} {x:>3}'.replace('{}', '{0}').format(1, {'a': 2}, x=3)",
    "1 2   3",
  ),
  "percent": ("return '%s has %d (%.1f%%)' % ('a', 2, 3.14)", "a has 2 (3.1%)"),
  "sort_key_reverse": (
    "return sorted(['bb', 'a', 'ccc'], key=len, reverse=True)",
    "ccc, bb, a",
  ),
  "sort_in_place": (
    "x = [(2, 'a'), (1, 'b')]\nx.sort(key=lambda p: p[0])\nreturn x[0][1]",
    "b",
  ),
  "bound_method_as_key": (
    "d = {'a': 1, 'b': 3}\nreturn max(d, key=d.get)",
    "b",
  ),
  "recursion_to_200": (
    "def f(n):\n  return 0 if n == 0 else 1 + f(n - 1)\nreturn f(200)",
    "200",
  ),
  "mutual_recursion": (
    """
def even(n): return n == 0 or odd(n - 1)
def odd(n): return n != 0 and even(n - 1)
return even(10)""",
    "yes",
  ),
  "math": ("import math\nreturn math.floor(math.hypot(3, 4.5))", "5"),
  "math_as": ("import math as m\nreturn m.ceil(m.pi)", "4"),
  "from_math": (
    "from math import sqrt as root, inf\nreturn root(9) < inf",
    "yes",
  ),
  "star_unpacking": (
    "a, *b, c = range(5)\n(d, e), f = (1, 2), 3\nreturn [a, *b, c, d, e, f]",
    "0, 1, 2, 3, 4, 1, 2, 3",
  ),
  "star_arguments": (
    "def f(*a, **k): return len(a) + len(k)\nreturn f(*[1, 2], **{'x': 3})",
    "3",
  ),
  "keyword_only": ("def f(a, *, b): return a - b\nreturn f(5, b=2)", "3"),
  "positional_only": ("def f(a, /, b): return a - b\nreturn f(5, b=2)", "3"),
  "chained_comparison": ("return 1 < 2 <= 2 != 3", "yes"),
  "conditional": ("return 'a' if not [] else 'b'", "a"),
  "slices": (
    "x = list(range(6))\nx[1:3] = ['a']\nreturn x[::-2] + x[-1:]",
    "5, 3, 0, 5",
  ),
  "enumerate_zip": (
    "return [f'{i}{a}{b}' for i, (a, b) in enumerate(zip('ab', 'cd'), 1)]",
    "1ac, 2bd",
  ),
  "any_all": (
    "return any([0, 1]) and all(x > 0 for x in [1, 2]) and not any([])",
    "yes",
  ),
  "map_filter_reversed": (
    "return list(reversed(list(map(int, filter(None, ['1', '', '2'])))))",
    "2, 1",
  ),
  "min_max_default": (
    "return [max([], default=0), min(3, 1), max('ab')]",
    "0, 1, b",
  ),
  "iter_next_default": (
    "it = iter([1])\nreturn [next(it), next(it, 'end')]",
    "1, end",
  ),
  "del": (
    "d = {'a': 1, 'b': 2}\ndel d['a']\nx = 1\ndel x\nreturn list(d)",
    "b",
  ),
  "callable_hasattr": (
    "return callable(len) and hasattr('a', 'upper') and not callable(1)",
    "yes",
  ),
  "isinstance_type": (
    "return isinstance(1, (int, str)) and type('a') is str",
    "yes",
  ),
  "while_else": (
    "n = 3\nwhile n:\n  n -= 1\nelse:\n  return 'done'\nreturn 'no'",
    "done",
  ),
  "for_else_break": (
    "for x in 'abc':\n  if x == 'b': break\nelse:\n  x = 'none'\nreturn x",
    "b",
  ),
  "continue_pass": (
    "n = 0\nfor i in range(4):\n  if i == 2: continue\n  n += i\nreturn n",
    "4",
  ),
  "dict_display": (
    "a = {'x': 1}\nb = {**a, 'y': 2} | {'z': 3}\nreturn sum(b.values())",
    "6",
  ),
  "dict_methods": (
    """
d = {}
d.setdefault('a', []).append(1)
d.update(b=[2])
return [k + str(v[0]) for k, v in d.items()] + [d.pop('c', 'no')]""",
    "a1, b2, no",
  ),
  "counting": (
    """
counts = {}
for w in 'a b a'.split():
  counts[w] = counts.get(w, 0) + 1
return sorted(counts.items(), key=lambda i: -i[1])[0][0]""",
    "a",
  ),
  "set_algebra": (
    "a, b = {1, 2, 3}, {2, 3, 4}\nreturn sorted(a & b) + sorted(a ^ b) + [len(a | b)]",
    "2, 3, 1, 4, 4",
  ),
  "frozenset": ("return len({frozenset([1]), frozenset([1])})", "1"),
  "tuple_of_tuples": ("x = ((1, 2), (3,))\nreturn sum(x, ())", "1, 2, 3"),
  "parse_numbers": (
    "return int(' 12 ') + float('0.5') + int('ff', 16)",
    "267.5",
  ),
  "round_divmod": (
    "return [round(2.567, 1), *divmod(7, 2), -7 // 2]",
    "2.6, 3, 1, -4",
  ),
  "bits": ("return (5 & 3) | (1 << 4) ^ 2", "19"),
  "power": ("return 2 ** 10 + pow(2, 3, 5)", "1027"),
  "string_methods": (
    "return ' The Red-Car '.strip().lower().replace('-', ' ').title()",
    "The Red Car",
  ),
  "split_join": (
    "return '; '.join(p.strip() for p in 'a, b,c'.split(','))",
    "a; b; c",
  ),
  "partition_find": (
    "a, _, b = 'key=value'.partition('=')\nreturn b[b.find('l'):] + a",
    "luekey",
  ),
  "string_tests": (
    "return ['12'.isdigit(), 'ab'.startswith(('a', 'x')), 'b' in 'abc']",
    "yes, yes, yes",
  ),
  "string_escapes": ("return 'é' + chr(233) + r'\\n' + '\\x41'", "éé\\nA"),
  "bytes": ("return len('é'.encode('utf-8')) + b'ab'[0]", "99"),
  "docstring": ("'''What it does.'''\nreturn 'x'", "x"),
  "annotations": (
    "n: int = 1\nnames: List[str] = ['a']\ndef f(a: 'Patch') -> str: return a\n"
    "return f(names[0])",
    "a",
  ),
  "inner_function_with_default": (
    "def f(x, seen=[]):\n  seen.append(x)\n  return len(seen)\nf(1)\nreturn f(2)",
    "2",
  ),
  "late_binding": (
    "return [f() for f in [lambda i=i: i for i in range(3)]]",
    "0, 1, 2",
  ),
  "augmented": (
    "x = [1]\nx += [2]\nx[0] *= 5\nn = 7\nn //= 2\nreturn x + [n]",
    "5, 2, 3",
  ),
  "own_name_of_a_builtin": ("input, id = 'a', 'b'\nreturn input + id", "ab"),
  "underscore_names": ("_x, _ = 1, 2\nreturn _x + _", "3"),
  "global_order": ("print('b')\nprint('a', 'c', sep='-')\nreturn 'x'", "x"),
  "memory_of_a_grid": (
    "grid = [[0] * 300 for _ in range(300)]\nreturn len(grid) * len(grid[0])",
    "90000",
  ),
  "loop_of_100000": (
    "n = 0\nfor i in range(100000): n += i % 7\nreturn n",
    "299995",
  ),
}

VISION = {
  "count": ("return len(ImagePatch(image).find('car'))", "3"),
  "count_formatted": (
    "return formatting_answer(len(ImagePatch(image).find('cat')))",
    "0",
  ),
  "exists": ("return bool(ImagePatch(image).find('dog'))", "yes"),
  "first_color": (
    """
image_patch = ImagePatch(image)
car_patches = image_patch.find("car")
car_patch = car_patches[0]
return car_patch.visual_question_answering("What color is the car?")""",
    "red",
  ),
  "filter_by_color": (
    """
cars = ImagePatch(image).find("car")
blue = [c for c in cars
        if c.visual_question_answering("What color is it?") == "blue"]
print(f"Blue cars: {', '.join(map(str, blue))}.")
return formatting_answer(len(blue))""",
    "2",
  ),
  "left_to_right": (
    """
cars = ImagePatch(image).find("car")
cars.sort(key=lambda c: c.horizontal_center)
return [c.left for c in cars]""",
    "0, 300, 500",
  ),
  "topmost": (
    """
cars = ImagePatch(image).find("car")
return max(cars, key=lambda c: c.vertical_center).upper""",
    "899",
  ),
  "is_left_of": (
    """
car, dog = ImagePatch(image).find("car")[0], ImagePatch(image).find("dog")[0]
return "yes" if car.horizontal_center < dog.horizontal_center else "no" """,
    "yes",
  ),
  "nearest": (
    """
dog = ImagePatch(image).find("dog")[0]
cars = ImagePatch(image).find("car")
return str(min(cars, key=lambda c: dist(c, dog)))""",
    "600 300 900 400",
  ),
  "nearest_by_depth": (
    """
cars = ImagePatch(image).find("car")
by_depth = sorted(cars, key=lambda c: c.compute_depth())
return by_depth[0].lower""",
    "99",
  ),
  "crop_and_ask": (
    """
image_patch = ImagePatch(image)
dog = image_patch.find("dog")[0]
left = image_patch.crop(0, 0, dog.left, 999)
return len([c for c in left.find("car") if c.right <= left.right])""",
    "2",
  ),
  "expand_and_ask": (
    """
car = ImagePatch(image).find("car")[2]
around = car.expand_patch_with_surrounding()
return around.visual_question_answering("Is there a car?")""",
    "yes",
  ),
  "overlap": (
    """
a, b, c = ImagePatch(image).find("car")
return a.overlaps(b) or a.overlaps(a)""",
    "yes",
  ),
  "read_a_number": (
    """
words = ocr(ImagePatch(image)).split()
digits = [w for w in words if w.isdigit()]
return int(digits[0]) if digits else "none" """,
    "25",
  ),
  "number_in_an_answer": (
    """
text = ImagePatch(image).visual_question_answering("How many are there?")
number = "".join(c for c in text if c.isdigit())
return int(number) * 2""",
    "4",
  ),
  "fallback_if_none": (
    """
cats = ImagePatch(image).find("cat")
if len(cats) == 0:
  return ImagePatch(image).image_caption()
return cats[0].image_caption()""",
    "a red car",
  ),
  "index_error_is_caught": (
    """
try:
  cat = ImagePatch(image).find("cat")[0]
except IndexError:
  return "no cat" """,
    "no cat",
  ),
  "refused_call_is_caught": (
    """
try:
  ImagePatch(image).find(None)
except Exception:
  return "refused" """,
    "refused",
  ),
  "knowledge": (
    """
animal = ImagePatch(image).image_caption()
return language_question_answering(f"What does {animal} give?")""",
    "wool",
  ),
  "knowledge_in_sentences": (
    "return language_question_answering('What?', long_answer=True)",
    "It gives wool.",
  ),
  "several_names": (
    """
found = {name: ImagePatch(image).find(name) for name in ("car", "dog", "cat")}
return [name for name, patches in found.items() if patches]""",
    "car, dog",
  ),
  "most_frequent": (
    """
colors = [c.visual_question_answering("What color is it?")
          for c in ImagePatch(image).find("car")]
return max(set(colors), key=colors.count)""",
    "blue",
  ),
  "patches_in_a_set": (
    "cars = ImagePatch(image).find('car')\nreturn len({*cars, *cars})",
    "3",
  ),
  "patch_as_answer": ("return ImagePatch(image).find('car')[0]", "a red car"),
  "width_and_height": (
    "p = ImagePatch(image)\nreturn [p.width, p.height, p.left, p.lower]",
    "999, 999, 0, 0",
  ),
  "area": (
    "return max(p.width * p.height for p in ImagePatch(image).find('car'))",
    "30000",
  ),
}


@pytest.mark.parametrize("name", LANGUAGE)
def test_language(executor, name):
  assert_answer(executor, *LANGUAGE[name])


@pytest.mark.parametrize("name", VISION)
def test_vision(executor, name):
  assert_answer(executor, *VISION[name])


def assert_answer(executor, body, answer):
  outcome = contained.run(executor, body, seeing_tool)
  assert (outcome.status, outcome.message) == ("ok", "")
  assert outcome.answer == answer


@pytest.mark.parametrize(
  "text",
  [
    pytest.param(
      'import math\n\nNAMES = ["car", "dog"]\nLIMIT: int = 2\n\n'
      "def count(patch: ImagePatch, name: str) -> int:\n"
      '  """How many."""\n'
      "  return min(len(patch.find(name)), LIMIT)\n\n"
      "def execute_command(image) -> str:\n"
      "  patch = ImagePatch(image)\n"
      "  return formatting_answer(sum(count(patch, n) for n in NAMES))\n",
      id="helpers_and_constants",
    ),
    pytest.param(
      "Here is the program:\n\n```python\n# Count.\n"
      "def execute_command(image):\n    return len(ImagePatch(image)"
      ".find('car'))\n```\nIt counts.",
      id="in_a_fence",
    ),
    pytest.param(
      "def execute_command(image):\r\n\tn = 3\r\n\treturn n\r\n",
      id="tabs_and_carriage_returns",
    ),
    pytest.param(
      "def execute_command(image, limit=3, *names):\n  return limit",
      id="arguments_with_defaults",
    ),
    pytest.param(
      "  cars = ImagePatch(image).find('car')\n  return 3", id="body"
    ),
  ],
)
def test_whole_completions(executor, text):
  outcome = executor.run(text, seeing_tool)
  assert (outcome.status, outcome.answer) == ("ok", "3")

"""Reference models of transformers with random weights, and ours from files.

What every family's tests share; a family's own tiny models are in
FAMILY_reference.py. Weights are redrawn, so that no path is dead: what
transformers starts at 0 or 1 (norms, biases) too. Needs torch.
"""

import json

import jax
import numpy as np
import transformers
from flax import nnx
from safetensors import numpy as st

from vpd_jax import step, trees
from vpd_jax.checkpoint import convert, hf

VERSION = f"transformers {transformers.__version__}"


def shapes(model):
  """Name -> shape of a torch model's state."""
  return {k: tuple(v.shape) for k, v in model.state_dict().items()}


def draw(name, shape, rng, is_near_one=False, scale=None):
  """A random array: products keep unit scale, and nothing is 0 or 1.

  Args:
    name: of the array; only says whether it is a norm, table or bias.
    shape: of the array.
    rng: a numpy Generator.
    is_near_one: for the scale of a norm that multiplies by it as it is.
    scale: standard deviation, where it is not to be guessed.
  """
  noise = rng.standard_normal(tuple(shape)).astype(np.float32)
  if is_near_one:
    return 1 + 0.3 * noise
  if scale is not None:
    return np.float32(scale) * noise
  if len(shape) == 1 or "position" in name or "relative" in name:
    return 0.5 * noise
  return noise / np.float32(np.sqrt(np.prod(shape[1:])))


def write(folder, config, shapes, draw_one, seed=0):
  """Writes config.json and model.safetensors.

  Args:
    folder: to make.
    config: dict, becomes config.json.
    shapes: their name -> shape.
    draw_one: (name, shape, rng) -> float32 array.
    seed: of the generator, which draws in the order of sorted names.
  """
  folder.mkdir(parents=True)
  rng = np.random.default_rng(seed)
  drawn = {n: draw_one(n, shape, rng) for n, shape in sorted(shapes.items())}
  st.save_file(drawn, folder / hf.WEIGHTS, metadata={"format": "pt"})
  (folder / hf.CONFIG).write_text(json.dumps(config))


def load(cls, folder, tied=()):
  """The model of a folder, where nothing is missing but `tied`, or unused."""
  loaded, info = cls.from_pretrained(folder, output_loading_info=True)
  assert set(info["missing_keys"]) <= set(tied), info
  assert not info["unexpected_keys"] and not info["mismatched_keys"], info
  return loaded.float().eval()


def arrays(folder):
  """Their name -> array, of all files of a folder."""
  found = {}
  for path in sorted(folder.glob("*.safetensors")):
    found |= st.load_file(path)
  return found


def ours(cls, options, sources):
  """Our model with weights of foreign folders, the rest of its own.

  Args:
    cls: a family's Model.
    options: its keyword arguments.
    sources: (folder, table of names) each.

  Returns:
    (graphdef, our name -> array).
  """
  graphdef, own = nnx.split(cls(**options), nnx.Param)
  named = trees.flatten_with_names(nnx.to_pure_dict(own))
  for folder, table in sources:
    source = hf.scan(folder)
    named |= convert.load(convert.ours(source, table, named, folder), named)
  return graphdef, named


def merge(graphdef, named):
  """Our model of named arrays."""

  def keys_as_numbers(tree):
    if not isinstance(tree, dict):
      return tree
    return {
      int(k) if k.isdigit() else k: keys_as_numbers(v) for k, v in tree.items()
    }

  return step.merge(graphdef, keys_as_numbers(trees.nest(named)))


def gradients(loss, graphdef, named):
  """Gradients of loss(model) by our names."""

  @jax.jit
  def of(arrays):
    return jax.grad(lambda a: loss(merge(graphdef, a)))(arrays)

  return of({k: jax.numpy.asarray(v) for k, v in named.items()})


def their_gradients(reference, table, named):
  """Gradients of a torch model after backward(), by our names and layout."""
  found = {n: p.grad.numpy() for n, p in reference.named_parameters()}
  wrapped = {n: convert.in_memory(x, n) for n, x in found.items()}
  ours = convert.ours(wrapped, table, named, "gradients")
  return {name: array.whole() for name, array in ours.items()}


def worst_gradient(ours, theirs, zero=()):
  """Largest difference of an array, relative to theirs; none may be dead.

  Args:
    ours: by name; more may be there than in `theirs`.
    theirs: from `their_gradients`.
    zero: ends of names whose gradient is zero but for rounding.
  """
  worst = 0.0
  for name, expected in theirs.items():
    scale = np.abs(expected).max()
    if name.endswith(tuple(zero)) and zero:
      assert max(scale, np.abs(ours[name]).max()) < 1e-4, name
      continue
    assert scale > 1e-5, f"{name} has no gradient: a dead path"
    worst = max(worst, np.abs(ours[name] - expected).max() / scale)
  return worst


def export(folder, config, table, named, **options):
  """Writes our arrays as a folder of transformers."""
  wrapped = {n: convert.in_memory(x, n) for n, x in named.items()}
  hf.write(folder, config, convert.theirs(wrapped, table), **options)

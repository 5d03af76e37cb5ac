"""Peak memory of reading a foreign checkpoint straight into shardings.

    python benchmarks/import_weights.py

Makes a PaLI of SigLIP L/16 and Flan-T5 large as transformers' folders of
random bfloat16 (2.2 GB, files of 0.5 GB), reads them in a fresh process into
parameters cut over eight simulated devices, and prints that process's peak
beside the bound: 1.3 x the largest file + the target's shards. On CPU the
shards are in the process's own memory; on an accelerator they are not.
Deletes the files at the end.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

SIZE = "l16_flan_t5_large"
ROWS = 32128
FILE_BYTES = 500 * 10**6
DEVICES = 8


def write(folder: pathlib.Path) -> int:
  """Writes both parts; bytes of the largest file."""
  import ml_dtypes
  import numpy as np

  from vpd_jax.checkpoint import convert, families, hf, source
  from vpd_jax.models.pali import hf_config, params, sizes

  options = sizes.get(SIZE) | {"vocab_size": ROWS}
  rng = np.random.default_rng(0)
  block = rng.standard_normal(2**20, np.float32).astype(ml_dtypes.bfloat16)

  def random(name, shape):
    def read(index):
      return np.resize(block, [part.stop - part.start for part in index])

    return source.Array(name, shape, block.dtype, read)

  named = families.Shapes("pali", options).named
  ours = {name: random(name, tuple(x.shape)) for name, x in named.items()}
  for part in ("text", "image"):
    config = hf_config.config(options, part, ROWS)
    foreign = convert.theirs(ours, params.table(options, part))
    hf.write(folder / part, config, foreign, shard_bytes=FILE_BYTES)
  files = [f.stat().st_size for f in folder.glob("*/*.safetensors")]
  print(f"checkpoint: {sum(files) / 1e9:.2f} GB in {len(files)} files")
  return max(files)


def read(folder: pathlib.Path) -> None:
  """In a process of its own: reads, and prints what it took as JSON."""
  import jax
  import jax.numpy as jnp
  from jax.sharding import NamedSharding, PartitionSpec

  from vpd_jax.checkpoint import convert, families, hf
  from vpd_jax.models.pali import hf_config, params

  options = {"vocab_size": ROWS}
  for part in ("text", "image"):
    options |= hf_config.options(hf.read_config(folder / part))
  shapes = families.Shapes("pali", options)
  mesh = jax.make_mesh((DEVICES,), ("fsdp",))

  def target(name):
    axes = list(shapes.axes[name])
    spec = [None] * len(axes)
    if "embed" in axes:
      spec[axes.index("embed")] = "fsdp"
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    shape = shapes.named[name].shape
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding)

  expected = {name: target(name) for name in shapes.named}
  before = _memory("VmRSS")
  start = time.process_time()
  arrays = {}
  for part in ("text", "image"):
    table = params.table(options, part)
    where = folder / part
    arrays |= convert.ours(hf.scan(where), table, expected, where)
  checked = time.process_time()
  convert.check_finite(arrays.values(), folder)
  loading = time.process_time()
  loaded = convert.load(arrays, expected)
  end = time.process_time()
  shards = sum(
    shard.data.nbytes for x in loaded.values() for shard in x.addressable_shards
  )
  result = {
    "before": before,
    "peak": _memory("VmHWM"),
    "shards": shards,
    "seconds": [checked - start, loading - checked, end - loading],
  }
  print(json.dumps(result))


def main() -> None:
  """Writes, reads in a fresh process, prints the comparison."""
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    largest = write(folder)
    flags = f"--xla_force_host_platform_device_count={DEVICES}"
    out = subprocess.run(
      [sys.executable, __file__, name],
      env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
      stdout=subprocess.PIPE,
      text=True,
      check=True,
    )
  found = json.loads(out.stdout)
  headers, finite, load = found["seconds"]
  used = found["peak"] - found["before"]
  bound = 1.3 * largest + found["shards"]
  print(f"largest file      {largest / 1e9:.3f} GB")
  print(f"target's shards   {found['shards'] / 1e9:.3f} GB")
  print(f"process before    {found['before'] / 1e9:.3f} GB")
  print(f"peak above that   {used / 1e9:.3f} GB, bound {bound / 1e9:.3f} GB")
  print(f"beyond the shards {(used - found['shards']) / 1e9:.3f} GB")
  print(
    f"CPU seconds: names {headers:.1f}, finite {finite:.1f}, load {load:.1f}"
  )
  if used > bound:
    sys.exit("the peak is above the bound")


def _memory(field: str) -> int:
  """Bytes of a field of this process's status (Linux)."""
  for line in pathlib.Path("/proc/self/status").read_text().splitlines():
    if line.startswith(f"{field}:"):
      return int(line.split()[1]) * 1024
  raise ValueError(field)


if __name__ == "__main__":
  if len(sys.argv) > 1:
    read(pathlib.Path(sys.argv[1]))
  else:
    main()

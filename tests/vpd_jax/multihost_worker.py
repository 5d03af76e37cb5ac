"""One of several processes, for what the train command does not show.

python tests/vpd_jax/multihost_worker.py PORT COUNT NUMBER FOLDER
"""

import pathlib
import re
import signal
import sys

import jax
import numpy as np

from vpd_jax import distributed
from vpd_jax.input import mixture
from vpd_jax.sharding import mesh, place


def main(port: str, count: int, number: int, folder: pathlib.Path) -> None:
  """A batch whose rows straddle processes; agreement; folders; signals."""
  options = dict(
    coordinator=f"localhost:{port}", num_processes=count, process_id=number
  )
  with distributed.start(options):
    # SIGTERM ends a process that does not ask for it, as during start-up.
    assert not _is_caught(signal.SIGTERM)
    # 2 x 3 devices: rows of the middle third are on both processes.
    made = mesh.make({"fsdp": 3, "tensor": 2})
    sharding = place.batch_sharding(made, "fsdp_tensor")
    whole = {
      "image": np.arange(6 * 4 * 4 * 3, dtype=np.uint8).reshape(6, 4, 4, 3),
      "label_target": np.arange(24, dtype=np.int32).reshape(12, 2),
    }
    batch = place.put_batch(
      {name: x[mixture.rows_of(sharding, len(x))] for name, x in whole.items()},
      sharding,
    )
    for name, x in batch.items():
      for shard in x.addressable_shards:
        np.testing.assert_array_equal(shard.data, whole[name][shard.index])
    total = jax.jit(lambda x: x.sum())(batch["label_target"])
    assert int(total) == whole["label_target"].sum()
    assert distributed.is_main() == (number == 0)
    assert distributed.gather("x" * number) == ["x" * n for n in range(count)]
    distributed.check_shared(folder / "shared")
    distributed.sync("process 0 has removed its file")
    assert not list((folder / "shared").iterdir())
    distributed._SEEN_S = 0.5
    try:
      distributed.check_shared(folder / str(number))
    except ValueError as e:
      assert "process 1 (host " in str(e) and str(folder / "0") in str(e)
    else:
      raise AssertionError("two folders for one")
    distributed.sync("end")
    print("ok", flush=True)


def _is_caught(number: int) -> bool:
  """Whether any code, C++ too, handles a signal; as far as Linux says it."""
  status = pathlib.Path("/proc/self/status")
  text = status.read_text() if status.exists() else ""
  found = re.search(r"^SigCgt:\s*(\w+)", text, re.M)
  return bool(found and int(found[1], 16) >> (number - 1) & 1)


if __name__ == "__main__":
  port, count, number, folder = sys.argv[1:]
  main(port, int(count), int(number), pathlib.Path(folder))

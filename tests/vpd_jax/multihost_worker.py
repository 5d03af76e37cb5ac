"""One of several processes, for what the train command does not show.

python tests/vpd_jax/multihost_worker.py PORT COUNT NUMBER
"""

import sys

import jax
import numpy as np

from vpd_jax import distributed
from vpd_jax.input import mixture
from vpd_jax.sharding import mesh, place


def main(port: str, count: int, number: int) -> None:
  """Puts a batch on a mesh whose rows straddle processes, and agrees."""
  options = dict(
    coordinator=f"localhost:{port}", num_processes=count, process_id=number
  )
  with distributed.start(options):
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
    assert distributed.agree(number == 1) and not distributed.agree(False)
    assert distributed.is_main() == (number == 0)
    distributed.sync("end")
    print("ok", flush=True)


if __name__ == "__main__":
  main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

"""Measures the embedded world's tools against the scenes that it drew.

    python -m data_gen.report.tool_accuracy --workdir=DIR

measures on scenes like those of a finished data_gen workdir, writes
DIR/tool_accuracy.json for the report, and prints it. The tools read the JPEG's
pixels through their `run_batch`, as programs make them do; the truth comes
from the scene.
"""

import argparse
import collections
import hashlib
import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from data_gen.sources import _render, _scene, world
from data_gen.tools import (
  tool,
  world_depth,
  world_find,
  world_ocr,
  world_vqa,
)
from vpd_jax.evaluators import scoring

_WHOLE = (0, 0, 999, 999)
_LEAST_IOU = 0.5
_LEAST_DEPTH_GAP = 0.2  # As the source asks only about clear differences.


def measure(
  source: Mapping[str, Any] | None = None, num_images: int = 200
) -> dict[str, float]:
  """Accuracy of detection, colour, kind, reading and depth order.

  A found box is right if it overlaps one true box, not claimed by another,
  with an IoU of 0.5 or more. The other figures are over the right boxes.

  Args:
    source: keyword arguments of the world source that say how scenes look
      (`preset`, `setting`); others are ignored. The seed is not that of any
      split.
    num_images: how many scenes to draw.

  Returns:
    Name -> share in 0..1, or a count for names that start with "num_".
    Figures that the scenes do not have (no words, one depth) are absent.
  """
  source = source or {}
  setting = world.make_setting(
    source.get("preset", "quickstart"), source.get("setting")
  )
  tools = _make_tools(setting)
  sums: collections.Counter[str] = collections.Counter()
  counts: collections.Counter[str] = collections.Counter()
  for index in range(num_images):
    rng = np.random.default_rng([7_041_776, index])
    scene = _scene.sample_scene(rng, setting)
    jpeg = _render.encode_jpeg(
      _render.render(scene, setting, rng), setting.jpeg_quality
    )
    image = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
    key = hashlib.sha256(jpeg).hexdigest()
    for name, values in _score(tools, scene, image, key).items():
      sums[name] += sum(values)
      counts[name] += len(values)
  measured = {k: sums[k] / counts[k] for k in counts if counts[k]}
  return {
    **measured,
    "num_images": num_images,
    "num_objects": counts["find_recall"],
  }


def _make_tools(setting):
  kinds = setting.kinds + ((_scene.SIGN,) if setting.words else ())
  names = {"colors": setting.colors, "kinds": kinds}
  return {
    "find": world_find.Tool(**names),
    "vqa": world_vqa.Tool(**names),
    "depth": world_depth.Tool(**names),
    "ocr": world_ocr.Tool(**names),
  }


def _score(tools, scene, image, key):
  """Lists of 0/1 or IoU values by figure, for one image."""

  def ask(name, box=_WHOLE, **arguments):
    call = tool.Call(image, key, tuple(box), arguments)
    return tools[name].run_batch([call])[0]

  found = ask("find", object_name="object")
  pairs = _match([o.box for o in scene.objects], found)
  scores = {
    "find_recall": [i in pairs for i in range(len(scene.objects))],
    "find_precision": [j in pairs.values() for j in range(len(found))],
    "box_iou": [
      scoring.box_iou(scene.objects[i].box, found[j]) for i, j in pairs.items()
    ],
    "box_exact": [
      list(scene.objects[i].box) == found[j] for i, j in pairs.items()
    ],
  }
  colors, kinds, words, depths = [], [], [], []
  for i, j in pairs.items():
    truth = scene.objects[i]
    colors.append(ask("vqa", found[j], question="What color is it?"))
    kinds.append(ask("vqa", found[j], question="What shape is it?"))
    depths.append((truth.depth, ask("depth", found[j])))
    if truth.word:
      words.append((truth.word, ask("ocr", found[j])))
  true_objects = [scene.objects[i] for i in pairs]
  scores["color"] = [o.color == c for o, c in zip(true_objects, colors)]
  scores["kind"] = [o.kind == k for o, k in zip(true_objects, kinds)]
  scores["ocr"] = [word == read for word, read in words]
  scores["depth_order"] = _depth_order(depths)
  return scores


def _depth_order(depths: Sequence[tuple[float, float]]) -> list[bool]:
  """Whether each pair of clearly different depths is in the right order."""
  return [
    (a[0] < b[0]) == (a[1] < b[1])
    for n, a in enumerate(depths)
    for b in depths[n + 1 :]
    if abs(a[0] - b[0]) >= _LEAST_DEPTH_GAP
  ]


def _match(
  true_boxes: Sequence[scoring.Box], found: Sequence[scoring.Box]
) -> dict[int, int]:
  """Pairs true and found boxes, the best overlap first."""
  overlaps = sorted(
    (
      (scoring.box_iou(t, f), i, j)
      for i, t in enumerate(true_boxes)
      for j, f in enumerate(found)
    ),
    key=lambda item: (-item[0], item[1], item[2]),
  )
  pairs: dict[int, int] = {}
  for overlap, i, j in overlaps:
    if overlap >= _LEAST_IOU and i not in pairs and j not in pairs.values():
      pairs[i] = j
  return dict(sorted(pairs.items()))


def write(workdir: pathlib.Path, num_images: int = 200) -> dict[str, float]:
  """Measures for a workdir's own source; writes tool_accuracy.json there.

  Raises:
    FileNotFoundError: if the folder has no config.json.
    ValueError: if its source is not the embedded world.
  """
  path = workdir / "config.json"
  if not path.is_file():
    raise FileNotFoundError(
      f"{path} does not exist; give the workdir of a data_gen run."
    )
  source = json.loads(path.read_text())["config"]["source"]
  if source["name"] != "world":
    raise ValueError(
      f"{path} has source {source['name']!r}; only the embedded world"
      " knows what is in its pictures."
    )
  measured = measure(source, num_images)
  text = json.dumps({k: round(v, 4) for k, v in measured.items()}, indent=2)
  (workdir / "tool_accuracy.json").write_text(text + "\n")
  return measured


def main(argv: Sequence[str] | None = None) -> None:
  """The command line."""
  parser = argparse.ArgumentParser(description="Measures the world's tools.")
  parser.add_argument(
    "--workdir", type=pathlib.Path, required=True, help="of a data_gen run"
  )
  for name, value in write(parser.parse_args(argv).workdir).items():
    print(f"{name:16s} {value:.4g}")


if __name__ == "__main__":
  main()

"""How a foreign folder's pictures are resized, for "image" of model.json.

Its preprocessor_config.json says so, or the image_processor of its
processor_config.json; its config.json says what side the tower is given.
"""

import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from vpd_jax.checkpoint import hf
from vpd_jax.input import preprocess

FILES = ("preprocessor_config.json", "processor_config.json")


def tower(config: Mapping[str, Any]) -> Any:
  """The part of a config.json that describes the image tower."""
  encoder = config.get("encoder")
  outer = encoder if isinstance(encoder, dict) else config
  return outer.get("vision_config") or config


def read(
  directory: str | os.PathLike,
  family: str,
  options: Mapping[str, Any],
  image_px: int | None = None,
) -> tuple[dict[str, Any], list[str]]:
  """What a folder of transformers says about pictures.

  Args:
    directory: of it.
    family: that reads it.
    options: keyword arguments of ours that it decides.
    image_px: side of pictures that its positions are resized for; None: none.

  Returns:
    (see `model_folder.IMAGE_KEYS`, lines of a report).

  Raises:
    ValueError: if it asks for what is not computed: other sizes than the
      tower's, steps, or a mean and deviation that the model does not have.
  """
  found = _processor(pathlib.Path(directory))
  if options.get("has_naflex_vit", False):
    return _of_patches(found, family, options)
  # All towers of transformers have this default.
  side = tower(hf.read_config(directory)).get("image_size", 224)
  image: dict[str, Any] = {}
  if found:
    path, config = found
    _check_scale(path, config, family)
    try:
      pixels, size = preprocess.from_hf(config)
    except ValueError as e:
      raise ValueError(f"{path}: {e}") from e
    if image_px is None and size != side:
      raise ValueError(
        f"{path} resizes pictures to {size} pixels, config.json's tower is for"
        f" {side}. Say which: --image_px."
      )
    image["kernel"] = pixels.kernel
    line = f"pictures: {pixels.kernel}, as {path.name} says"
  else:
    line = f"pictures: no {FILES[0]}; config.input.image_kernel says how"
  if image_px is not None or side == options["image_size"]:
    return image, [line]
  image["resize_px"] = side
  return image, [
    f"{line}; resized to {side} pixels, of which patches cover the first"
    f" {options['image_size']}"
  ]


def _of_patches(
  found: tuple[pathlib.Path, dict[str, Any]] | None,
  family: str,
  options: Mapping[str, Any],
) -> tuple[dict[str, Any], list[str]]:
  """As `read`, of a NaFlex."""
  if not found:
    return {}, []
  path, config = found
  _check_scale(path, config, family)
  try:
    kernel = preprocess.kernel_of(config)
  except ValueError as e:
    raise ValueError(f"{path}: {e}") from e
  line = (
    f"pictures: {kernel}, in patches of their own shape, as {path.name} says"
  )
  most, (patch, _) = config.get("max_num_patches"), options["stem"][0]
  if isinstance(most, int) and most > 0 and math.isqrt(most) ** 2 == most:
    side = math.isqrt(most) * patch
    line += f"; as many as there: config.input.image_px={side}"
  return {"kernel": kernel}, [line]


def _processor(
  directory: pathlib.Path,
) -> tuple[pathlib.Path, dict[str, Any]] | None:
  for name in FILES:
    path = directory / name
    if path.is_file():
      config = hf.read_json(path)
      if name == FILES[0]:
        return path, config
      inner = config.get("image_processor")
      if isinstance(inner, dict):
        return path, inner
  return None


def _check_scale(
  path: pathlib.Path, config: Mapping[str, Any], family: str
) -> None:
  """ValueError unless pixels are scaled as the family's model does it."""
  # A PaLI's tower is a SigLIP.
  name = family if family in preprocess.FAMILIES else "siglip"
  computed = preprocess.FAMILIES[name]
  for field, ours in (
    ("image_mean", computed.mean),
    ("image_std", computed.std),
  ):
    theirs = config.get(field, list(ours))
    is_same = isinstance(theirs, list) and len(theirs) == len(ours)
    if not is_same or not all(
      isinstance(a, int | float) and math.isclose(a, b, rel_tol=1e-6)
      for a, b in zip(theirs, ours, strict=True)
    ):
      raise ValueError(
        f"{path} has {field}={theirs}; {family} computes with {list(ours)} only."
      )

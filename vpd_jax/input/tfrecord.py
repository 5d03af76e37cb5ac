"""TFRecord framing and the tf.train.Example message, without TensorFlow.

A TFRecord file is a run of frames, each

    uint64 length | uint32 masked crc of length | payload | uint32 masked crc

all little-endian, with CRC-32C masked as TensorFlow does (rotate right by 15
bits, add 0xa282ead8). The payload here is a `tf.train.Example`: a map from a
name to a list of bytes, floats or int64. Source: the format notes in
tensorflow/core/lib/io/record_writer.h and core/example/example.proto.
"""

import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import IO, Any

import google_crc32c
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

HEADER_BYTES = 12
FOOTER_BYTES = 4

Value = Sequence[bytes] | Sequence[int] | Sequence[float]


def masked_crc32c(payload: bytes) -> int:
  """CRC-32C of `payload`, masked as in a TFRecord; an unsigned 32-bit int."""
  crc = google_crc32c.value(payload)
  return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(payload: bytes) -> bytes:
  """One TFRecord frame: header, payload, checksums."""
  length = struct.pack("<Q", len(payload))
  return b"".join(
    (
      length,
      struct.pack("<I", masked_crc32c(length)),
      payload,
      struct.pack("<I", masked_crc32c(payload)),
    )
  )


def read_frames(file: IO[bytes], name: str) -> Iterator[bytes]:
  """Yields the payloads of an open TFRecord file, each checksum checked.

  Args:
    file: opened in binary mode, at the start of a frame.
    name: of the file, for messages.

  Raises:
    ValueError: on a checksum that does not match, or a frame cut short; the
      message names the file, the record's number and the byte offset.
  """
  index, offset = 0, 0
  while header := file.read(HEADER_BYTES):
    length = check_header(header, name, index, offset)
    body = file.read(length + FOOTER_BYTES)
    yield check_body(body, length, name, index, offset)
    index, offset = index + 1, offset + HEADER_BYTES + length + FOOTER_BYTES


def check_header(header: bytes, name: str, index: int, offset: int) -> int:
  """Payload length from a frame's 12-byte header; ValueError if damaged."""
  if len(header) < HEADER_BYTES:
    raise ValueError(_damaged(name, index, offset, "the file ends in a header"))
  if struct.unpack("<I", header[8:])[0] != masked_crc32c(header[:8]):
    raise ValueError(_damaged(name, index, offset, "wrong length checksum"))
  return struct.unpack("<Q", header[:8])[0]


def check_body(
  body: bytes, length: int, name: str, index: int, offset: int
) -> bytes:
  """The payload of a frame's body; ValueError if damaged or cut short."""
  if len(body) < length + FOOTER_BYTES:
    raise ValueError(_damaged(name, index, offset, "the file ends in a record"))
  payload = body[:length]
  if struct.unpack("<I", body[length:])[0] != masked_crc32c(payload):
    raise ValueError(_damaged(name, index, offset, "wrong payload checksum"))
  return payload


def _damaged(name: str, index: int, offset: int, what: str) -> str:
  return (
    f"{name} is damaged at record {index} (byte {offset}): {what}. Restore"
    " the file from its source, or delete it and generate the data again."
  )


def encode_example(features: Mapping[str, Value]) -> bytes:
  """Serialises named lists as a tf.train.Example, same bytes for same input.

  Args:
    features: name -> list of bytes, of ints or of floats. An empty list is
      written as a feature without a kind, as TensorFlow does.

  Raises:
    TypeError: if a list's first element is of no such type.
  """
  example = _EXAMPLE()
  for name, values in features.items():
    feature = example.features.feature[name]
    if not len(values):
      continue
    if isinstance(values[0], bytes):
      feature.bytes_list.value.extend(values)
    elif isinstance(values[0], int):
      feature.int64_list.value.extend(values)
    elif isinstance(values[0], float):
      feature.float_list.value.extend(values)
    else:
      raise TypeError(f"feature {name!r} holds {type(values[0]).__name__}")
  return example.SerializeToString(deterministic=True)


def decode_example(
  payload: bytes, names: Collection[str] | None = None
) -> dict[str, list]:
  """The inverse of `encode_example`.

  Args:
    payload: as `encode_example` made it.
    names: features to decode, of those that are there; None: all.

  Raises:
    ValueError: if it is no Example.
  """
  try:
    example = _EXAMPLE.FromString(payload)
  except Exception as e:  # protobuf's DecodeError differs between backends.
    raise ValueError(f"not a tf.train.Example: {e}") from e
  features, out = example.features.feature, {}
  for name in features if names is None else names:
    if name not in features:
      continue
    feature = features[name]
    kind = feature.WhichOneof("kind")
    out[name] = list(getattr(feature, kind).value) if kind else []
  return out


def _example_class() -> Any:
  """Builds the message class from its wire layout.

  Field numbers are those of example.proto and feature.proto. The message has
  a package of its own, so that it can live beside TensorFlow's in a process.
  """
  file = descriptor_pb2.FileDescriptorProto(
    name="vpd_jax/example.proto", package="vpd_jax", syntax="proto3"
  )
  kinds = descriptor_pb2.FieldDescriptorProto

  def add(message, name, number, kind, *, repeated=False, type_name=None):
    field = message.field.add(name=name, number=number, type=kind)
    field.label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
    if type_name:
      field.type_name = type_name
    return field

  lists = (
    ("BytesList", kinds.TYPE_BYTES),
    ("FloatList", kinds.TYPE_FLOAT),
    ("Int64List", kinds.TYPE_INT64),
  )
  for name, kind in lists:
    add(file.message_type.add(name=name), "value", 1, kind, repeated=True)
  feature = file.message_type.add(name="Feature")
  feature.oneof_decl.add(name="kind")
  for number, (name, _) in enumerate(lists, start=1):
    field = add(
      feature,
      name[: -len("List")].lower() + "_list",
      number,
      kinds.TYPE_MESSAGE,
      type_name=f".vpd_jax.{name}",
    )
    field.oneof_index = 0
  features = file.message_type.add(name="Features")
  entry = features.nested_type.add(name="FeatureEntry")
  entry.options.map_entry = True
  add(entry, "key", 1, kinds.TYPE_STRING)
  add(entry, "value", 2, kinds.TYPE_MESSAGE, type_name=".vpd_jax.Feature")
  add(
    features,
    "feature",
    1,
    kinds.TYPE_MESSAGE,
    repeated=True,
    type_name=".vpd_jax.Features.FeatureEntry",
  )
  example = file.message_type.add(name="Example")
  add(
    example,
    "features",
    1,
    kinds.TYPE_MESSAGE,
    type_name=".vpd_jax.Features",
  )
  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  return message_factory.GetMessageClass(
    pool.FindMessageTypeByName("vpd_jax.Example")
  )


_EXAMPLE = _example_class()

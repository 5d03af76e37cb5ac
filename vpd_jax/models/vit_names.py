"""Names of `vit.ViT`'s arrays in files of SigLIP, for any family with one.

renames = vit_names.siglip("vit/", "vision_tower.", depth=27)
"""

from vpd_jax.models.renames import Layout, Rename


def siglip(
  ours: str, theirs: str, depth: int, patches: Layout = Layout.PATCHES
) -> list[Rename]:
  """In transformers' files.

  Args:
    ours, theirs: what names begin with, such as "vit/" and "vision_tower.".
    depth: how many blocks.
    patches: of the first projection; TRANSPOSED where it is given patches, as
      NaFlex's is.
  """
  blocks, layers = f"{ours}blocks", f"{theirs}encoder.layers.{{}}"
  out = [
    Rename(
      f"{ours}stem/0/kernel",
      f"{theirs}embeddings.patch_embedding.weight",
      patches,
    ),
    Rename(f"{ours}stem/0/bias", f"{theirs}embeddings.patch_embedding.bias"),
    Rename(f"{ours}positions", f"{theirs}embeddings.position_embedding.weight"),
    *norm(f"{ours}norm", f"{theirs}post_layernorm"),
    *norm(f"{blocks}/norm_attention", f"{layers}.layer_norm1", depth),
    *norm(f"{blocks}/norm_mlp", f"{layers}.layer_norm2", depth),
    *linear(f"{blocks}/mlp/up", f"{layers}.mlp.fc1", depth),
    *linear(f"{blocks}/mlp/down", f"{layers}.mlp.fc2", depth),
  ]
  for name, foreign in {
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "out": "out_proj",
  }.items():
    out += linear(
      f"{blocks}/attention/{name}", f"{layers}.self_attn.{foreign}", depth
    )
  return out


def big_vision(ours: str, theirs: str, depth: int, heads: int) -> list[Rename]:
  """In big_vision's files, as `checkpoint/big_vision.py` reads them.

  Args:
    ours, theirs: what names begin with, such as "vit/" and "img/".
    depth: how many blocks.
    heads: of each.
  """
  blocks = f"{ours}blocks"
  layers = f"{theirs}Transformer/encoderblock_{{}}"
  attention = f"{layers}/MultiHeadDotProductAttention_0"
  out = [
    Rename(f"{ours}stem/0/kernel", f"{theirs}embedding/kernel", Layout.PIXELS),
    Rename(f"{ours}stem/0/bias", f"{theirs}embedding/bias"),
    Rename(f"{ours}positions", f"{theirs}pos_embedding", Layout.ONE_ROW),
  ]

  def plain(name: str, foreign: str, parts: tuple[str, ...], layers=None):
    for part in parts:
      out.append(Rename(f"{name}/{part}", f"{foreign}/{part}", layers=layers))

  of_norm, of_linear = ("scale", "bias"), ("kernel", "bias")
  plain(f"{ours}norm", f"{theirs}Transformer/encoder_norm", of_norm)
  plain(f"{blocks}/norm_attention", f"{layers}/LayerNorm_0", of_norm, depth)
  plain(f"{blocks}/norm_mlp", f"{layers}/LayerNorm_1", of_norm, depth)
  plain(f"{blocks}/mlp/up", f"{layers}/MlpBlock_0/Dense_0", of_linear, depth)
  plain(f"{blocks}/mlp/down", f"{layers}/MlpBlock_0/Dense_1", of_linear, depth)
  plain(f"{blocks}/attention/out", f"{attention}/out", ("bias",), depth)
  out.append(
    Rename(
      f"{blocks}/attention/out/kernel",
      f"{attention}/out/kernel",
      Layout.heads_out(heads),
      layers=depth,
    )
  )
  for name in ("query", "key", "value"):
    for part in of_linear:
      out.append(
        Rename(
          f"{blocks}/attention/{name}/{part}",
          f"{attention}/{name}/{part}",
          Layout.heads_in(heads),
          layers=depth,
        )
      )
  return out


def norm(
  name: str, foreign: str, layers: int | None = None
) -> tuple[Rename, Rename]:
  """A torch LayerNorm: weight and bias."""
  return (
    Rename(f"{name}/scale", f"{foreign}.weight", layers=layers),
    Rename(f"{name}/bias", f"{foreign}.bias", layers=layers),
  )


def linear(
  name: str, foreign: str, layers: int | None = None
) -> tuple[Rename, Rename]:
  """A torch Linear: weight [O, I] and bias."""
  return (
    Rename(
      f"{name}/kernel", f"{foreign}.weight", Layout.TRANSPOSED, layers=layers
    ),
    Rename(f"{name}/bias", f"{foreign}.bias", layers=layers),
  )

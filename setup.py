"""Package metadata of vpd_jax."""

import pathlib

import setuptools

HERE = pathlib.Path(__file__).parent
VERSION = next(
  line.split('"')[1]
  for line in (HERE / "vpd_jax/__init__.py").read_text().splitlines()
  if line.startswith("__version__")
)

CORE = [
  "absl-py",
  "flax>=0.12.6",
  "google-crc32c>=1.6",
  "grain>=0.2.12",
  "jax>=0.8",
  "ml_collections>=1.1",
  "numpy>=2",
  "optax>=0.2.6",
  "orbax-checkpoint>=0.11.30",
  "pillow>=11",
  "protobuf>=5",
  "safetensors>=0.6",
  "scipy>=1.14",
  "tensorboardx>=2.6",
]
# Program tools that work on photographs without downloading weights.
TOOLS = [
  "opencv-python-headless>=4.10,<5",
  "pytesseract>=0.3.13",
  "scikit-image>=0.26",
]
# Tokenizers of the open checkpoints.
TEXT = ["sentencepiece>=0.2", "tokenizers>=0.20"]
# Frozen weights in 8 or 4 bits.
QLORA = ["qwix>=0.1.8"]
# The reference implementations that ours are compared with.
PARITY = TEXT + ["peft>=0.17", "torch>=2.6", "transformers>=5.20"]
DEV = ["pyright==1.1.414", "pytest>=8", "pytest-xdist>=3.7", "ruff==0.17.5"]

setuptools.setup(
  name="vpd_jax",
  version=VERSION,
  description="Visual Program Distillation in JAX",
  long_description=(HERE / "README.md").read_text(),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.11,<3.14",
  packages=setuptools.find_packages(
    include=["vpd_jax*", "data_gen*"], exclude=["tests*"]
  ),
  package_data={
    "vpd_jax": ["input/vocab/*"],
    "data_gen": [
      "prompts/*.txt",
      "report/pages/*",
      "sources/data/*",
    ],
  },
  install_requires=CORE,
  extras_require={
    "dev": DEV + QLORA + TEXT + TOOLS,
    "gpu": ["jax[cuda13]"],
    "parity": PARITY,
    "qlora": QLORA,
    "text": TEXT,
    "tools": TOOLS,
    "tpu": ["jax[tpu]"],
    "wandb": ["wandb>=0.19"],
  },
)

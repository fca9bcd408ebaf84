"""Top-k sparse autoencoder: rows of a text encoder as few features out of many.

Makhzani and Frey, "k-Sparse Autoencoders", arXiv 1312.5663; Gao et al., "Scaling and evaluating
sparse autoencoders", arXiv 2406.04093. a = W_enc (x − b_dec) + b_enc, z = ReLU of the k largest of
a, x̂ = W_dec z + b_dec. A code is kept as k values and k places a row: decoding sums k rows of
W_dec, and pre-activations, n wide, exist for a few rows at a time.

Saved in the format of SAELens: `cfg.json` and `sae_weights.safetensors`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor
from torch.nn.functional import embedding_bag

from efface.core import EffaceError
from efface.output import write_whole

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
ARCHITECTURE = "topk"
DENSE = 1 << 22
"""Pre-activations that exist at once."""
PLAIN: Mapping[str, Any] = {"normalize_activations": "none", "reshape_activations": "none"}
"""What SAELens offers and we compute one way: other values would be another function."""


class Code(NamedTuple):
    """Rows as k features each."""

    values: Float[Tensor, "rows k"]
    at: Int[Tensor, "rows k"]


@dataclass(frozen=True, eq=False)
class TopK:
    """One autoencoder; n features of width d, k of them a row."""

    k: int
    W_enc: Float[Tensor, "d n"]
    b_enc: Float[Tensor, "n"]
    W_dec: Float[Tensor, "n d"]
    b_dec: Float[Tensor, "d"]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What it was trained on, as its file tells."""

    def encode(self, rows: Float[Tensor, "rows d"]) -> Code:
        """The k largest pre-activations of each row, below zero as zero."""
        return encode(rows - self.b_dec, self.W_enc, self.b_enc, self.k)

    def decode(self, code: Code) -> Float[Tensor, "rows d"]:
        """The sum of the features in a code, and the bias."""
        return decode(code, self.W_dec) + self.b_dec

    def save(self, folder: Path) -> None:
        """Write the two files, each whole or not at all; the folder is made."""
        d, n = self.W_enc.shape
        config = {
            "architecture": ARCHITECTURE,
            "d_in": d,
            "d_sae": n,
            "k": self.k,
            "dtype": "float32",
            "device": "cpu",
            **PLAIN,
            "apply_b_dec_to_input": True,
            "rescale_acts_by_decoder_norm": False,
            "metadata": dict(self.metadata),
        }
        tensors = {name: getattr(self, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
        held = {name: t.detach().cpu().float().contiguous() for name, t in tensors.items()}
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / WEIGHTS, to_bytes(held))
        write_whole(folder / CONFIG, (json.dumps(config, indent=1) + "\n").encode())


def encode(
    rows: Float[Tensor, "rows d"],
    weight: Float[Tensor, "d n"],
    bias: Float[Tensor, "n"],
    k: int,
) -> Code:
    """`TopK.encode` of centred rows."""
    parts = [
        torch.addmm(bias, chunk, weight).topk(k, dim=1, sorted=False)
        for chunk in chunks(rows, len(bias))
    ]
    if not parts:
        return Code(rows.new_zeros(0, k), torch.zeros(0, k, dtype=torch.long, device=rows.device))
    return Code(torch.cat([p.values for p in parts]).relu(), torch.cat([p.indices for p in parts]))


def chunks(rows: Float[Tensor, "rows d"], wide: int) -> Iterator[Float[Tensor, "_ d"]]:
    """Rows in runs whose pre-activations, `wide` each, are few enough."""
    count = max(1, DENSE // wide)
    for start in range(0, len(rows), count):
        yield rows[start : start + count]


def decode(code: Code, features: Float[Tensor, "n d"]) -> Float[Tensor, "rows d"]:
    """Σ value · feature, row by row."""
    return embedding_bag(code.at, features, per_sample_weights=code.values, mode="sum")


def load(folder: Path) -> TopK:
    """Read an autoencoder in SAELens' format, or one sentence on why there is none."""
    config = _config(folder / CONFIG)
    path = folder / WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise EffaceError(f"{path} is missing: train it again, or give another folder") from error
    except (OSError, SafetensorError) as error:
        raise EffaceError(
            f"{path} is truncated or not safetensors ({error}): train it again"
        ) from error
    n, d = config["d_sae"], config["d_in"]
    shapes = {"W_enc": (d, n), "b_enc": (n,), "W_dec": (n, d), "b_dec": (d,)}
    if set(tensors) != set(shapes):
        raise EffaceError(
            f"{path} holds {', '.join(sorted(tensors)) or 'nothing'}: a top-k autoencoder has "
            f"{', '.join(shapes)}"
        )
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise EffaceError(f"{path}: {name} holds values that are not finite numbers")
        if tuple(tensor.shape) != shapes[name]:
            raise EffaceError(
                f"{path}: {name} is {tuple(tensor.shape)}, {CONFIG} tells of {n} features of "
                f"width {d}: the folder is damaged"
            )
    if not 1 <= config["k"] <= n:
        raise EffaceError(f"{folder / CONFIG} has k {config['k']}, of {n} features")
    wide = {name: tensor.float() for name, tensor in tensors.items()}
    found = TopK(config["k"], **wide, metadata=config.get("metadata") or {})
    return _folded(found, config)


def _folded(given: TopK, config: Mapping[str, Any]) -> TopK:
    """The same function as ours: SAELens may rank by a·|W_dec|, and may not centre its input."""
    norms = given.W_dec.norm(dim=1)
    if not config.get("rescale_acts_by_decoder_norm", False):
        norms = torch.ones_like(norms)
    bias = given.b_enc
    if not config.get("apply_b_dec_to_input", True):
        bias = bias + given.b_dec @ given.W_enc
    features = given.W_dec / norms.where(norms > 0, 1)[:, None]
    return replace(given, W_enc=given.W_enc * norms, b_enc=bias * norms, W_dec=features)


def _config(path: Path) -> dict[str, Any]:
    """The settings, of a kind that we compute."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise EffaceError(
            f"{path} is missing: give a folder that efface train-sae or sae-lens wrote"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise EffaceError(f"{path} cannot be read as JSON ({error}): give another") from error
    if not isinstance(config, dict):
        raise EffaceError(f"{path} is not a JSON object: give another")
    if (kind := config.get("architecture")) != ARCHITECTURE:
        raise EffaceError(f"{path} is of the architecture {kind!r}: only {ARCHITECTURE!r} is read")
    for name in ("k", "d_in", "d_sae"):
        if type(config.get(name)) is not int:
            raise EffaceError(f"{path} has no whole number {name!r}: give another")
    for name, plain in PLAIN.items():
        if config.get(name, plain) != plain:
            raise EffaceError(
                f"{path} has {name} {config[name]!r}, efface reads {plain!r} alone: train without, "
                "or fold it into the weights with sae-lens"
            )
    if not isinstance(config.get("metadata") or {}, dict):
        raise EffaceError(f"{path}: its metadata is not a JSON object")
    return config

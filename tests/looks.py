"""Tiny random image models in the folders that detectors are given."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.tiny import TOKENS, _fill, _tokenizer

SIDE = 24


def build_classifier(folder: Path, labels: Sequence[str], seed: int = 0) -> Path:
    """A ViT of these labels, with means and deviations of its own."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    with torch.random.fork_rng():  # the constructors draw from the global generator
        model = ViTForImageClassification(
            ViTConfig(
                image_size=SIDE,
                patch_size=8,
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
                id2label=dict(enumerate(labels)),
                label2id={label: i for i, label in enumerate(labels)},
            )
        )
    _fill(model, torch.Generator().manual_seed(seed))
    model.save_pretrained(folder)
    ViTImageProcessor(
        size={"height": SIDE, "width": SIDE}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]
    ).save_pretrained(folder)
    return folder


def build_clip(folder: Path, seed: int = 0) -> Path:
    """A CLIP with the tiny model's tokenizer and OpenAI's preparation: shortest side, then crop."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    words = _tokenizer(special_last=True)
    shape = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    with torch.random.fork_rng():  # the constructors draw from the global generator
        model = CLIPModel(
            CLIPConfig(
                text_config={
                    **shape,
                    "vocab_size": len(words),
                    "max_position_embeddings": TOKENS,
                    "bos_token_id": words.bos_token_id,
                    "eos_token_id": words.eos_token_id,
                    "pad_token_id": words.pad_token_id,
                },
                vision_config={**shape, "image_size": SIDE, "patch_size": 8},
                projection_dim=8,
            )
        )
    _fill(model, torch.Generator().manual_seed(seed))
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    ).save_pretrained(folder)
    return folder


def noise(count: int, width: int = 40, height: int = 30) -> list[Image.Image]:
    """Pictures of many colours, none of them square."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 200, (count, 1, 1, 3), dtype=np.uint8)
    grain = rng.integers(0, 56, (count, height, width, 3), dtype=np.uint8)
    return [Image.fromarray(each) for each in colours + grain]

"""A patch on the text side: rows in, rows with the concept gone out. Also a ComfyUI node.

Needs torch and safetensors and nothing else of efface, so this one file can be copied into
ComfyUI/custom_nodes. Erasing text rows does what merging the map into the weights does, where
nothing but the denoiser reads them; it must also run on the negative prompt. Patches with edits of
other tensors cannot act here and are refused: export those as LoRA.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

Maps = Mapping[str, tuple[Tensor, Tensor]]
"""Text stream -> a, b of T = I + a bᵀ."""


def read_maps(path: str | Path) -> Maps:
    """The maps of a patch file by stream: "text", and "pooled" where the model has one."""
    with safe_open(path, framework="pt") as file:
        told = json.loads((file.metadata() or {}).get("efface", "{}"))
        if told.get("gates"):
            raise ValueError(f"{path} has a gate, which runs inside the model: use efface.apply")
        if not told.get("maps") or told.get("edits"):
            raise ValueError(f"{path} is no patch of maps alone: export it as LoRA instead")
        if len(set(told["maps"])) != len(told["maps"]):
            raise ValueError(f"{path} maps a stream twice: stack it again with efface")
        return {
            stream: (file.get_tensor(f"maps.{i}.a"), file.get_tensor(f"maps.{i}.b"))
            for i, stream in enumerate(told["maps"])
        }


def erase_rows(rows: Tensor, maps: Maps, stream: str = "text") -> Tensor:
    """T e for every row e: [..., width] in and out, in the rows' dtype and on their device."""
    if stream not in maps:
        return rows
    a, b = (x.to(rows.device, torch.float32) for x in maps[stream])
    if rows.shape[-1] != a.shape[0]:
        raise ValueError(f"rows of {rows.shape[-1]}, but the patch maps rows of {a.shape[0]}")
    wide = rows.float()
    return (wide + (wide @ b) @ a.T).to(rows.dtype)


class EraseConcept:
    """ComfyUI node: conditioning with a patch's concept erased; use it on both prompts."""

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "erase"
    CATEGORY = "conditioning"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The node's sockets."""
        return {"required": {"conditioning": ("CONDITIONING",), "patch": ("STRING", {})}}

    def erase(self, conditioning: list[Any], patch: str) -> tuple[list[Any]]:
        """ComfyUI's list of [rows, {"pooled_output": vector, ...}], erased."""
        maps = read_maps(patch)
        return ([[erase_rows(rows, maps), _erased(more, maps)] for rows, more in conditioning],)


def _erased(more: Mapping[str, Any], maps: Maps) -> dict[str, Any]:
    pooled = more.get("pooled_output")
    if pooled is None:
        return dict(more)
    return {**more, "pooled_output": erase_rows(pooled, maps, "pooled")}


NODE_CLASS_MAPPINGS = {"EraseConcept": EraseConcept}
"""What ComfyUI registers."""
NODE_DISPLAY_NAME_MAPPINGS = {"EraseConcept": "Erase concept (efface patch)"}

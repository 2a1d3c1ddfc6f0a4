"""Nodes for tests against a real ComfyUI: slow ones, deaf ones, failing ones. They need no model.

Given to a server by --extra-model-paths-config, never installed into a checkout.
"""

import io
import time

import torch
from comfy.utils import ProgressBar
from PIL import Image

NONCE = ("INT", {"default": 0, "min": 0, "max": 1_000_000_000})


class Steps:
    """Passes a picture on, in so many steps of so many seconds. `nonce` only keeps the server's cache out."""

    CATEGORY = "tests"
    FUNCTION = "run"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "image": ("IMAGE",),
                "steps": ("INT", {"default": 4, "min": 1, "max": 100_000}),
                "delay": ("FLOAT", {"default": 0.05, "min": 0.0, "max": 60.0, "step": 0.001}),
                "preview": ("BOOLEAN", {"default": False}),
                "nonce": NONCE,
            }
        }

    def run(self, image, steps, delay, preview, nonce):
        bar = ProgressBar(steps)
        for step in range(1, steps + 1):
            time.sleep(delay)
            shade = 255 * step // steps
            picture = ("JPEG", Image.new("RGB", (64, 48), (shade, shade, shade)), 64) if preview else None
            bar.update_absolute(step, steps, picture)
        return (image,)


class Deaf:
    """Sleeps without looking at whether it is to stop."""

    CATEGORY = "tests"
    FUNCTION = "run"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "image": ("IMAGE",),
                "seconds": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 600.0, "step": 0.001}),
                "nonce": NONCE,
            }
        }

    def run(self, image, seconds, nonce):
        time.sleep(seconds)
        return (image,)


class Fail:
    """Raises: a ValueError, or what torch raises when the GPU's memory does not suffice."""

    CATEGORY = "tests"
    FUNCTION = "run"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",), "kind": (["value", "oom"],), "nonce": NONCE}}

    def run(self, image, kind, nonce):
        if kind == "oom":
            raise torch.cuda.OutOfMemoryError("a test ran out of memory")
        raise ValueError("a test failed on purpose")


NODE_CLASS_MAPPINGS = {"ProbeSteps": Steps, "ProbeDeaf": Deaf, "ProbeFail": Fail}

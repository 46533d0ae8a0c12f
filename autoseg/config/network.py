"""Defines the part of a plan that decides the shapes of the network's weights.

Owns: `NetworkPlan` with its text tower, and which window a scan gets.
Does not own: building the network (`network/build.py`), how a value is chosen (`rules/network.py`).
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from autoseg.config.data import PlanPart

Backbone = Literal["nano", "tiny", "small", "base_plus", "large"]
WindowPx = Annotated[int, Field(ge=16, le=4096, multiple_of=16)]


class TextPlan(PlanPart):
    """The text tower (open_clip's), either small and trained from scratch or pretrained and frozen."""

    model: str = Field(
        "nano",
        max_length=200,
        description="'nano' (small, from scratch), 'learned' (one vector per organ, no text), or open_clip's name",
    )
    weights: str | None = Field(
        None, max_length=1000, description="open_clip tag or file of its weights; null trains from scratch"
    )
    max_tokens: int = Field(
        64, ge=8, le=1024, description="maximum length of a sentence in tokens; longer ones are cut"
    )


class NetworkPlan(PlanPart):
    """The architecture: everything that decides the shapes of the weights."""

    backbone: Backbone = Field(description="size of SAM2's Hiera image encoder")
    weights: str | None = Field(
        None,
        max_length=1000,
        description="SAM2 checkpoint: a file, hf://OWNER/REPO@REVISION/FILE or a name such as sam2.1_hiera_tiny; null "
        "trains from scratch",
    )
    weights_sha256: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="SHA-256 of this file, 64 hexadecimal digits; autoseg_plan finds it for files on the hub",
    )
    text: TextPlan = TextPlan()
    image_size_px: int = Field(
        ge=32, le=2048, multiple_of=32, description="side of the square image that the Hiera sees, in pixels"
    )
    window_rows_px: WindowPx = Field(description="rows of the in-plane window at target spacing, in pixels")
    window_columns_px: WindowPx = Field(description="columns of the in-plane window, in pixels")
    small_windows_px: tuple[tuple[WindowPx, WindowPx], ...] = Field(
        (), max_length=8, description="further windows (rows, columns) for scans whose slices fit into them whole"
    )
    feature_channels: int = Field(
        64, ge=16, le=1024, multiple_of=16, description="number of channels D of prompts and features"
    )
    interaction_levels: int = Field(2, ge=0, le=4, description="number of levels of text-image cross-attention")
    interaction_image_encoder: Literal["hiera", "clip"] = Field(
        "hiera", description="image tokens for the text: Hiera's, or those of text.model's CLIP image tower"
    )
    injection_stages: tuple[Annotated[int, Field(ge=0, le=3)], ...] = Field(
        (0, 1, 2, 3), description="Hiera stages into which the text semantics are injected"
    )
    prompt_tokens: int = Field(2, ge=1, le=16, description="sparse prompt tokens per organ")
    point_prompts: bool = Field(
        False, description="whether the network accepts points and boxes beside the text (from Python)"
    )
    semantic_decoder: bool = Field(
        True, description="whether SEG-SAM's semantic decoder runs beside SAM's mask decoder"
    )
    refiner_channels: tuple[Annotated[int, Field(ge=4, le=512, multiple_of=4)], ...] = Field(
        (16, 32, 64, 128),
        max_length=6,
        description="channels of each stage of the refiner, full resolution first; empty leaves the refiner out",
    )
    context_slices: int = Field(1, ge=1, le=8, description="neighboring slices on each side that the refiner sees")
    refiner_stride: Literal[1, 2, 4] = Field(1, description="stride of the finest stage of the refiner, in pixels")
    memory_slices: int = Field(0, ge=0, le=64, description="slices in the memory bank; 0 segments each slice by itself")
    memory_mib: float = Field(
        256.0,
        gt=0,
        le=1e6,
        description="maximum size of the memory bank of a volume in MiB; it holds fewer slices where they are large",
    )
    memory_attended_slices: int = Field(4, ge=1, le=64, description="slices of the memory bank that a slice attends to")
    memory_update: Literal["similarity", "fifo"] = Field(
        "similarity", description="which slice leaves a full memory bank"
    )

    @property
    def refiner_step_px(self) -> int:
        """Return the number that the sides of windows must be multiples of, a pixel of the coarsest refiner stage."""
        return self.refiner_stride * 2 ** max(0, len(self.refiner_channels) - 1)

    @property
    def windows_px(self) -> tuple[tuple[int, int], ...]:
        """Return all windows (rows, columns) from the smallest to the largest."""
        small = sorted(self.small_windows_px, key=lambda window: window[0] * window[1])
        return (*small, (self.window_rows_px, self.window_columns_px))

    def window_of(self, slice_shape: tuple[int, int]) -> tuple[int, int]:
        """Return the window for slices of this many rows and columns: the smallest that contains them completely."""
        rows, columns = slice_shape
        fitting = (window for window in self.windows_px if window[0] >= rows and window[1] >= columns)
        return next(fitting, self.windows_px[-1])

    @model_validator(mode="after")
    def _window_fits_the_refiner(self) -> "NetworkPlan":
        step = self.refiner_step_px
        sides = [side for window in self.windows_px for side in window]
        if any(side % step or side < 2 * step for side in sides):
            raise ValueError(
                f"window_rows_px, window_columns_px and small_windows_px must be multiples of {step}, at least "
                f"{2 * step}: "
                f"refiner_stride {self.refiner_stride}, halved {len(self.refiner_channels) - 1} times. "
                "Another window, or fewer refiner_channels, would do"
            )
        return self

    @model_validator(mode="after")
    def _clip_tokens_have_a_model_and_a_reader(self) -> "NetworkPlan":
        if self.interaction_image_encoder == "clip" and self.text.model == "learned":
            raise ValueError(
                "interaction_image_encoder 'clip' is the image encoder of text.model, and 'learned' has none; set "
                "text.model to 'nano' or one of open_clip's, or interaction_image_encoder to 'hiera'"
            )
        if self.interaction_image_encoder == "clip" and not self.interaction_levels:
            raise ValueError(
                "interaction_image_encoder 'clip' makes tokens for the interaction, which interaction_levels 0 turns "
                "off; set interaction_levels to 1 or more, or interaction_image_encoder to 'hiera'"
            )
        return self

"""The part of a plan that decides the shapes of the network's weights.

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
        "nano", max_length=200, description="'nano' (from scratch), 'learned' (a vector, no text), or open_clip's"
    )
    weights: str | None = Field(None, max_length=1000, description="open_clip tag or file; none: from scratch")
    max_tokens: int = Field(64, ge=8, le=1024, description="length of a sentence in tokens; longer ones are cut")


class NetworkPlan(PlanPart):
    """What decides the shapes of the weights."""

    backbone: Backbone = Field(description="size of SAM2's Hiera")
    weights: str | None = Field(
        None,
        max_length=1000,
        description="SAM2 checkpoint: a file, hf://OWNER/REPO@REVISION/FILE or a name such as sam2.1_hiera_tiny; none: "
        "from scratch",
    )
    weights_sha256: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="SHA-256 that this file must have, 64 hexadecimal digits; autoseg_plan finds it for the hub's",
    )
    text: TextPlan = TextPlan()
    image_size_px: int = Field(ge=32, le=2048, multiple_of=32, description="side of the square that the Hiera sees")
    window_rows_px: WindowPx = Field(description="in-plane window at target spacing, rows")
    window_columns_px: WindowPx = Field(description="in-plane window, columns")
    small_windows_px: tuple[tuple[WindowPx, WindowPx], ...] = Field(
        (), max_length=8, description="more windows, rows and columns, for scans whose slices they hold whole"
    )
    feature_channels: int = Field(64, ge=16, le=1024, multiple_of=16, description="D, width of prompts and features")
    interaction_levels: int = Field(2, ge=0, le=4, description="levels of text-image cross-attention")
    interaction_image_encoder: Literal["hiera", "clip"] = Field(
        "hiera", description="whose patches the text looks at: Hiera's, or those of text.model's image tower"
    )
    injection_stages: tuple[Annotated[int, Field(ge=0, le=3)], ...] = Field(
        (0, 1, 2, 3), description="Hiera stages at which the semantics enter"
    )
    prompt_tokens: int = Field(2, ge=1, le=16, description="sparse prompt tokens an organ")
    point_prompts: bool = Field(False, description="whether points and boxes may help the text, in Python")
    semantic_decoder: bool = Field(True, description="SEG-SAM's decoder beside SAM's")
    refiner_channels: tuple[Annotated[int, Field(ge=4, le=512, multiple_of=4)], ...] = Field(
        (16, 32, 64, 128),
        max_length=6,
        description="width of each refinement stage, full resolution first; none: the decoders' maps as they are",
    )
    context_slices: int = Field(1, ge=1, le=8, description="slices on each side that the refiner sees with a slice")
    refiner_stride: Literal[1, 2, 4] = Field(1, description="stride of the finest refinement stage")
    memory_slices: int = Field(0, ge=0, le=64, description="slices the memory bank holds; 0: each slice by itself")
    memory_mib: float = Field(
        256.0, gt=0, le=1e6, description="most MiB that the bank of a volume takes; fewer slices where they are large"
    )
    memory_attended_slices: int = Field(4, ge=1, le=64, description="slices of the bank that a slice looks at")
    memory_update: Literal["similarity", "fifo"] = Field("similarity", description="how a full bank makes room")

    @property
    def refiner_step_px(self) -> int:
        """What the sides of windows must be multiples of: a pixel of the coarsest refinement stage."""
        return self.refiner_stride * 2 ** max(0, len(self.refiner_channels) - 1)

    @property
    def windows_px(self) -> tuple[tuple[int, int], ...]:
        """All windows, rows and columns, the smallest first and the one for everything last."""
        small = sorted(self.small_windows_px, key=lambda window: window[0] * window[1])
        return (*small, (self.window_rows_px, self.window_columns_px))

    def window_of(self, slice_shape: tuple[int, int]) -> tuple[int, int]:
        """Return the window for a scan by the rows and columns of its slices: the smallest that holds them whole."""
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

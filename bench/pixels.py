"""An image file's pixels -> what a backbone sees of them; knows no dataset and no backbone."""

from __future__ import annotations

import numpy as np
from PIL import ExifTags, Image, ImageOps

from bench.record import Preprocessing

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an upright RGB image; transparency is composited on white.

    The EXIF orientation is applied. 16-bit grey is scaled to 8 bits, where Pillow would clip it.
    An image that is RGB and upright already comes back as it is.

    Raises:
        ValueError: The mode has no defined range (32-bit integer or float pixels).
    """
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "I" and image.format == "PPM":  # Netpbm grey of more than 8 bits, scaled to 16
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no defined range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def decode_image(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Return what a backbone sees of an image before normalisation, uint8, shape (S, S, 3).

    The shorter side is resized to ``round(S / crop_fraction)``, the centre S x S is cropped.

    Args:
        image: Of any mode and size.
        preprocessing: Size S, interpolation and crop fraction; mean and deviation play no part.
    """
    image = to_rgb(image)
    size = preprocessing.image_size
    shorter = max(size, round(size / preprocessing.crop_fraction))
    scale = shorter / min(image.size)
    width, height = (max(shorter, round(side * scale)) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    method = _RESAMPLING[preprocessing.interpolation]
    if (width, height) == image.size or method is Image.Resampling.NEAREST:
        image = image.resize((width, height), method)
        return np.asarray(image.crop((left, top, left + size, top + size)))
    # Only the pixels that the crop keeps are resampled: a third less work on a 4:3 photo, the same
    # values but for the last bit. Nearest would round to other pixels: it goes the long way.
    across, down = image.width / width, image.height / height
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    return np.asarray(image.resize((size, size), method, box=box))

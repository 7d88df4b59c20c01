"""Decoding of image files to upright RGB pixels, for all modes of JPEG, PNG and WebP."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP")
INSIDE, UNDECIDED = 255, 128  # grey levels of the regions of a mask; its background is 0
BACKGROUND = (255, 255, 255)  # behind transparent pixels
PIXELS = 89_478_485  # of an image, as Pillow advises: decoding takes a quarter of a GB
_ORIENTATION = 0x0112  # EXIF tag
# exceptions of Pillow for unreadable content, depending on the format
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class DamagedImage(Exception):  # noqa: N818 - caught where the file's name is known
    """The content is not an intact image; the message says why."""


def decode_rgb(content: bytes) -> Image.Image:
    """Return the upright RGB image of an intact JPEG, PNG or WebP file, 8 bits per channel.

    Grey is repeated, 16-bit grey is scaled by 1/257 and rounded, transparency is laid over white,
    CMYK and palettes are converted as Pillow does, and the EXIF orientation is applied. Of an
    animation the first frame is used. Altered but not truncated JPEG data is decoded by libjpeg as
    far as possible: Pillow does not report it.

    Raises:
        DamagedImage: the content is empty, cut short, or no image.
    """
    image = _load(content)
    turn = orientation(image)
    try:
        return upright(_to_rgb(image), turn)
    except _BROKEN as error:
        raise DamagedImage(f"not convertible to RGB: {error}") from None


def stored_size(content: bytes) -> tuple[int, int] | None:
    """Return (width, height) in pixels from an image file's header; None if it has none."""
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS).size
    except _BROKEN:
        return None


def decode_foreground(content: bytes, ignored: int) -> Image.Image:
    """Return the foreground of a segmentation file as a grey image: INSIDE, 0 or UNDECIDED.

    A pixel's class number is R + 256 G, or the value itself in a file of one channel (the index in
    a palette). Foreground is every number except 0 (background, other) and `ignored`, which is
    neither foreground nor background.

    Raises:
        DamagedImage: the content is empty, cut short, or no image.
    """
    image = _load(content)
    values = np.asarray(image)
    if values.ndim == 3:
        colours = np.asarray(image.convert("RGB"))  # (H, W, 3)
        values = colours[..., 0].astype(np.int64) + 256 * colours[..., 1].astype(np.int64)
    regions = np.where(values != 0, np.uint8(INSIDE), np.uint8(0))  # (H, W)
    regions[values == ignored] = UNDECIDED
    return Image.fromarray(regions)


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a loaded image, 1 ... 8; 1 if it has no readable one."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _BROKEN:
        return 1
    return value if value in range(1, 9) else 1


def upright(image: Image.Image, turn: int) -> Image.Image:
    """Return an image of mode L or RGB, transformed by the EXIF orientation `turn`."""
    if turn == 1:
        return image
    plain = Image.fromarray(np.asarray(image))  # without metadata of its own, which may be broken
    plain.getexif()[_ORIENTATION] = turn
    return ImageOps.exif_transpose(plain)


def decode_orientation(content: bytes) -> int:
    """Return the EXIF orientation of an intact image file; see `orientation`."""
    return orientation(_load(content))


def _load(content: bytes) -> Image.Image:
    """Return the first frame, decoded but not converted."""
    if not content:
        raise DamagedImage("empty")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        if image.width * image.height > PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels; at most {PIXELS:,} are read")
        image.load()
    except UnidentifiedImageError:
        raise DamagedImage("not a JPEG, PNG or WebP image") from None
    except _BROKEN as error:
        raise DamagedImage(str(error) or type(error).__name__) from None
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "I;16", "I;16B", "I;16L"):
        grey = np.asarray(image).astype(np.int64)  # (H, W) in 0 ... 65535
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        backdrop = Image.new("RGBA", over.size, (*BACKGROUND, 255))
        return Image.alpha_composite(backdrop, over).convert("RGB")
    return image.convert("RGB")

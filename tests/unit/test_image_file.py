"""Image files of every mode become upright RGB; what is cut short is refused."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from diffusability.data.image_file import DamagedImage, decode_foreground, decode_rgb
from diffusability.study.sources.folder_content import is_image

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)  # 6 high, 5 wide
GREY = COLOURS[..., 0]


def stored(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Return the file of an image."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(content: bytes) -> np.ndarray:
    """Return what is decoded, (H, W, 3) uint8."""
    image = decode_rgb(content)
    assert image.mode == "RGB"
    return np.asarray(image)


def oriented(turn: int) -> Image.Exif:
    """Return EXIF data that hold an orientation alone."""
    exif = Image.Exif()
    exif[0x0112] = turn
    return exif


def test_suffixes_in_any_case() -> None:
    assert all(map(is_image, ("a.JPEG", "a.jpg", "b.PNG", "c.WebP")))
    assert not any(map(is_image, ("a.txt", "jpeg", "a.jpeg.part", "a.gif")))


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_colours_are_kept(kind: str, options: dict[str, object]) -> None:
    assert np.array_equal(pixels(stored(Image.fromarray(COLOURS), kind, **options)), COLOURS)


def test_grey_is_repeated() -> None:
    for content in (stored(Image.fromarray(GREY)), stored(Image.fromarray(GREY), "JPEG")):
        grey = np.asarray(Image.open(io.BytesIO(content)))
        assert np.array_equal(pixels(content), np.repeat(grey[..., None], 3, axis=2))


def test_one_bit() -> None:
    content = stored(Image.fromarray(GREY > 127))
    assert np.array_equal(pixels(content)[..., 1], np.where(GREY > 127, 255, 0))


def test_sixteen_bit_grey_is_scaled() -> None:
    deep = np.array([[0, 128, 129, 257], [32768, 65535, 65407, 65406]], dtype=np.uint16)
    expected = np.rint(deep / 257).astype(np.uint8)  # by hand: 0 0 1 1 / 128 255 255 254
    assert expected.tolist() == [[0, 0, 1, 1], [128, 255, 255, 254]]
    assert np.array_equal(pixels(stored(Image.fromarray(deep)))[..., 2], expected)


def test_palette() -> None:
    palette = Image.fromarray(np.array([[0, 1], [2, 0]], dtype=np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    expected = [[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [10, 20, 30]]]
    assert pixels(stored(palette)).tolist() == expected
    transparent = pixels(stored(palette, transparency=1))
    assert transparent[0, 1].tolist() == [255, 255, 255]
    assert transparent[1].tolist() == expected[1]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_lies_over_white(kind: str) -> None:
    layers = np.zeros((1, 3, 4), dtype=np.uint8)
    layers[0, :, 0] = 200  # red 200, alpha 255, 0 and 51 (a fifth)
    layers[0, :, 3] = 255, 0, 51
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    seen = pixels(stored(Image.fromarray(layers), kind, **options)).astype(int)
    assert np.abs(seen[0, 0] - [200, 0, 0]).max() == 0
    assert np.abs(seen[0, 1] - 255).max() == 0
    assert np.abs(seen[0, 2] - [244, 204, 204]).max() <= 1  # 0.2 c + 0.8 x 255


def test_grey_with_transparency() -> None:
    grey = Image.fromarray(np.array([[[100, 255], [100, 0]]], dtype=np.uint8))
    assert grey.mode == "LA"
    assert pixels(stored(grey)).tolist() == [[[100] * 3, [255] * 3]]


def test_cmyk() -> None:
    ink = np.zeros((8, 8, 4), dtype=np.uint8)
    ink[..., 1] = 255  # magenta absorbs green
    seen = pixels(stored(Image.fromarray(ink, "CMYK"), "JPEG", quality=100)).astype(int)
    assert np.abs(seen - [255, 0, 255]).max() <= 2


TURNED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    # what a viewer shows, by the EXIF standard: where row 0 and column 0 of the file lie
    1: lambda a: a,  # top, left
    2: lambda a: a[:, ::-1],  # top, right
    3: lambda a: a[::-1, ::-1],  # bottom, right
    4: lambda a: a[::-1],  # bottom, left
    5: lambda a: a.transpose(1, 0, 2),  # left, top
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],  # right, top
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],  # right, bottom
    8: lambda a: a.transpose(1, 0, 2)[::-1],  # left, bottom
}


@pytest.mark.parametrize("turn", TURNED)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_exif_orientation(turn: int, kind: str) -> None:
    plain = stored(Image.fromarray(COLOURS), kind)
    turned = stored(Image.fromarray(COLOURS), kind, exif=oriented(turn))
    assert np.array_equal(pixels(turned), TURNED[turn](pixels(plain)))


def test_illegible_exif_leaves_the_image_as_it_is() -> None:
    content = stored(Image.fromarray(COLOURS), "JPEG", exif=b"Exif\x00\x00nonsense")
    assert np.array_equal(pixels(content), pixels(stored(Image.fromarray(COLOURS), "JPEG")))
    assert pixels(stored(Image.fromarray(COLOURS), exif=oriented(9))).shape == COLOURS.shape


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_every_truncation_is_noticed(kind: str) -> None:
    content = stored(Image.fromarray(RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8)), kind)
    for share in (0.0, 0.01, 0.3, 0.6, 0.9):
        with pytest.raises(DamagedImage):
            decode_rgb(content[: int(share * len(content))])


def test_what_is_no_image_is_named() -> None:
    with pytest.raises(DamagedImage, match="empty"):
        decode_rgb(b"")
    with pytest.raises(DamagedImage, match="not a JPEG, PNG or WebP"):
        decode_rgb(b"<html>404 Not Found</html>")
    altered = bytearray(stored(Image.fromarray(COLOURS)))
    altered[len(altered) // 2] ^= 0xFF  # PNG data carry check sums
    with pytest.raises(DamagedImage):
        decode_rgb(bytes(altered))


def test_foreground_of_class_numbers() -> None:
    ids = np.array([[0, 1, 255, 256], [919, 999, 1000, 1001]])
    colours = np.zeros((2, 4, 3), dtype=np.uint8)
    colours[..., 0], colours[..., 1] = ids % 256, ids // 256
    seen = np.asarray(decode_foreground(stored(Image.fromarray(colours)), ignored=1000))
    assert seen.tolist() == [[0, 255, 255, 255], [255, 255, 128, 255]]


def test_foreground_of_one_channel() -> None:
    for values in (np.array([[0, 7]], dtype=np.uint8), np.array([[0, 700]], dtype=np.uint16)):
        assert np.asarray(decode_foreground(stored(Image.fromarray(values)), 1000)).tolist() == [
            [0, 255]
        ]
    ignored = np.array([[1000, 3]], dtype=np.uint16)
    seen = np.asarray(decode_foreground(stored(Image.fromarray(ignored)), 1000))
    assert seen.tolist() == [[128, 255]]

"""Images and masks of every kind: they come out right, or one sentence names them and the remedy."""

import io
import os
import sys
import warnings

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as drawn
from PIL import Image, ImageCms, ImageOps

from llafs_lib.data import images
from llafs_lib.data.images import as_mask, as_rgb, find_images, image_size, read_image, read_rgb
from llafs_lib.errors import LlafsError

RGB = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8), (0, 0), 2)  # [24, 40, 3]
SMOOTH = Image.fromarray(RGB)
GREY = np.array(SMOOTH.convert("L"))
BIG = Image.fromarray(cv2.resize(RGB, (400, 240)))  # many blocks of a JPEG
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)


def encoded(image=BIG, kind="JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def refusal(call, *arguments) -> str:
    """The message of the LlafsError: short, on one line, in our own words."""
    with pytest.raises(LlafsError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message and " at 0x" not in message and "<" not in message
    assert len(message) < 300 and message.endswith(".")
    return message


# --- kinds of files that come out right ------------------------------------------------------------------------------


def with_palette(transparent: bool) -> bytes:
    palette = SMOOTH.quantize(8)
    return encoded(palette, "PNG", **({"transparency": palette.getpixel((0, 0))} if transparent else {}))


def animation(kind: str, last=None) -> bytes:
    return encoded(
        SMOOTH, kind, save_all=True, append_images=[ImageOps.invert(SMOOTH), BIG.crop((0, 0, 40, 24))], duration=50
    )


EXACT = {
    "png": (encoded(SMOOTH, "PNG"), RGB),
    "a PNG named .jpg": (encoded(SMOOTH, "PNG"), RGB),
    "bmp": (encoded(SMOOTH, "BMP"), RGB),
    "ppm": (encoded(SMOOTH, "PPM"), RGB),
    "tiff": (encoded(SMOOTH, "TIFF"), RGB),
    "lossless WebP": (encoded(SMOOTH, "WEBP", lossless=True), RGB),
    "lossless JPEG 2000": (encoded(SMOOTH, "JPEG2000"), RGB),
    "grey": (encoded(Image.fromarray(GREY), "PNG"), np.dstack([GREY] * 3)),
    "1 bit": (encoded(SMOOTH.convert("1"), "PNG"), np.array(SMOOTH.convert("1").convert("RGB"))),
    "palette": (with_palette(False), np.array(SMOOTH.quantize(8).convert("RGB"))),
    "CMYK TIFF": (encoded(SMOOTH.convert("CMYK"), "TIFF"), RGB),
    "TIFF of two pages": (encoded(SMOOTH, "TIFF", save_all=True, append_images=[ImageOps.invert(SMOOTH)]), RGB),
    "animated WebP": (encoded(SMOOTH, "WEBP", lossless=True, save_all=True, append_images=[BIG.resize((40, 24))]), RGB),
    "animated PNG": (animation("PNG"), RGB),
}


@pytest.mark.parametrize("kind", EXACT)
def test_kinds_that_come_out_exactly(tmp_path, kind):
    content, expected = EXACT[kind]
    (tmp_path / "p.jpg").write_bytes(content)
    found = read_rgb(tmp_path / "p.jpg")
    assert found.dtype == np.uint8 and np.array_equal(found, expected)
    assert image_size(tmp_path / "p.jpg") == (24, 40)


CLOSE = {
    "jpeg": encoded(SMOOTH, quality=95),
    "progressive JPEG": encoded(SMOOTH, quality=95, progressive=True),
    "CMYK JPEG": encoded(SMOOTH.convert("CMYK"), quality=95),
    "lossy WebP": encoded(SMOOTH, "WEBP", quality=95),
    "animated GIF": animation("GIF"),
    "LAB TIFF": encoded(
        ImageCms.profileToProfile(
            SMOOTH, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        ),
        "TIFF",
    ),
    "YCbCr TIFF": encoded(SMOOTH.convert("YCbCr"), "TIFF"),
}


@pytest.mark.parametrize("kind", CLOSE)
def test_kinds_that_come_out_closely(tmp_path, kind):
    (tmp_path / "p.any").write_bytes(CLOSE[kind])
    found = read_rgb(tmp_path / "p.any").astype(int)
    assert found.shape == RGB.shape and np.abs(found - RGB).mean() < 6


@pytest.mark.parametrize("kind", ["LA", "RGBA", "palette"])
def test_transparent_places_are_white_and_it_is_said(tmp_path, kind):
    alpha = Image.fromarray(np.repeat(np.uint8([[255, 0]]), 24, 0).repeat(20, 1))  # the right half is transparent
    image = (SMOOTH.convert("L") if kind == "LA" else SMOOTH).copy()
    image.putalpha(alpha)
    content = encoded(image, "PNG") if kind != "palette" else with_palette(True)
    (tmp_path / "p.png").write_bytes(content)
    found = read_image(tmp_path / "p.png")
    assert found.notes == ("transparent places were taken as white",)
    if kind == "palette":
        assert (found.pixels[0, 0] == 255).all()
    else:
        assert (found.pixels[:, 20:] == 255).all()
        opaque = np.dstack([GREY] * 3) if kind == "LA" else RGB
        assert np.array_equal(found.pixels[:, :20], opaque[:, :20])


def test_a_transparent_grey_value_of_a_16_bit_png_is_left_as_it_is(tmp_path):
    Image.fromarray(np.array([[0, 1000, 65_535]], np.uint16)).save(tmp_path / "p.png", transparency=1000)
    assert read_rgb(tmp_path / "p.png")[0, :, 0].tolist() == [0, 3, 255]


def test_half_transparent_is_laid_on_white():
    assert as_rgb(np.uint8([[[100, 0, 255, 128]]])).tolist() == [[[177, 127, 255]]]


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("name", ["p.png", "p.tif"])
def test_more_bits_are_neither_black_nor_cut_off(tmp_path, bits, name):
    ramp = (np.arange(256, dtype=np.uint16) << (bits - 8))[None]  # [1, 256]
    Image.fromarray(ramp).save(tmp_path / name)
    assert read_rgb(tmp_path / name)[0, :, 1].tolist() == list(range(256))
    assert np.array_equal(as_rgb(ramp), read_rgb(tmp_path / name))


@pytest.mark.parametrize("kind", [".png", ".tif"])
@pytest.mark.parametrize("bits", [12, 16])
def test_colours_of_more_bits(tmp_path, kind, bits):
    wide = RGB.astype(np.uint16) << (bits - 8)
    wide[0, 0, 0] = (1 << bits) - 1
    cv2.imwrite(str(tmp_path / f"p{kind}"), wide[..., ::-1])
    expected = RGB.copy()
    expected[0, 0, 0] = 255
    assert np.array_equal(read_rgb(tmp_path / f"p{kind}"), expected)


def test_big_endian_and_32_bits(tmp_path):
    image = Image.frombytes("I;16B", (2, 1), np.array([0, 65_535], ">u2").tobytes())
    image.save(tmp_path / "big.tif")
    Image.fromarray(np.array([[0, 255]], np.int32)).save(tmp_path / "long.tif")
    for name in ("big.tif", "long.tif"):
        assert read_rgb(tmp_path / name)[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize(("values", "expected"), [([0, 0.5, 1], [0, 128, 255]), ([0, 100, 255], [0, 100, 255])])
def test_fractions(tmp_path, values, expected):
    Image.fromarray(np.float32([values])).save(tmp_path / "p.tif")
    assert read_rgb(tmp_path / "p.tif")[0, :, 2].tolist() == expected


@pytest.mark.parametrize("values", [[0, np.nan], [0, np.inf], [-1, 1], [0, 900], [np.nan, np.nan]])
def test_fractions_without_a_meaning(tmp_path, values):
    Image.fromarray(np.float32([values])).save(tmp_path / "p.tif")
    message = refusal(read_rgb, tmp_path / "p.tif")
    assert "p.tif is [1, 2] float32 with values from" in message and "from 0 to 255" in message


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_every_exif_orientation(tmp_path, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    SMOOTH.save(tmp_path / "p", kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
    with Image.open(tmp_path / "p") as image:
        expected, stored = np.array(ImageOps.exif_transpose(image)), np.array(image)
        assert np.array_equal(as_rgb(image), expected)
    assert np.array_equal(read_rgb(tmp_path / "p"), expected)
    assert image_size(tmp_path / "p") == expected.shape[:2]
    assert np.array_equal(read_rgb(tmp_path / "p", turn=False), stored)


def test_frames_are_counted_but_not_what_a_phone_appends(tmp_path):
    for kind in ("GIF", "PNG", "TIFF", "WEBP"):
        (tmp_path / "p").write_bytes(animation(kind))
        assert read_image(tmp_path / "p").notes == ("the first of 3 frames",)
    SMOOTH.save(tmp_path / "p.jpg", "MPO", save_all=True, append_images=[SMOOTH])
    assert read_image(tmp_path / "p.jpg").notes == ()


@pytest.mark.parametrize("name", ["a b.png", "žebra 斑马.png", "two\nlines.png", "[1].png", "-o.png", "X.JPEG"])
def test_odd_names(tmp_path, name):
    SMOOTH.save(tmp_path / name, "PNG")
    assert np.array_equal(read_rgb(tmp_path / name), RGB)
    assert list(find_images(tmp_path / name)) == list(find_images(tmp_path)) == [tmp_path / name]


# --- files that are refused ------------------------------------------------------------------------------------------


def cut(content: bytes, share=0.5, end=b"") -> bytes:
    return content[: int(len(content) * share)] + end


END = b"\xff\xd9"
HALF = cut(encoded())
DAMAGED = {
    "half a JPEG": HALF,
    "half a JPEG with an end mark": HALF + END,
    "most of a JPEG with an end mark": cut(encoded(), 0.95, END),
    "half a JPEG with an end mark and more": HALF + END + b" appended",
    "half a grey JPEG with an end mark": cut(encoded(BIG.convert("L")), end=END),
    "half a CMYK JPEG with an end mark": cut(encoded(BIG.convert("CMYK")), end=END),
    "half a progressive JPEG": cut(encoded(progressive=True)),
    "half a progressive JPEG with an end mark": cut(encoded(progressive=True), end=END),
    "most of a progressive JPEG with an end mark": cut(encoded(progressive=True), 0.9, END),
    "the header of a JPEG": encoded()[:300],
    "a JPEG of 12 bits": encoded().replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"),
    "half a PNG": cut(encoded(kind="PNG")),
    "the header of a PNG": encoded(kind="PNG")[:20],
    "half a GIF": cut(encoded(kind="GIF")),
    "half a WebP": cut(encoded(kind="WEBP", lossless=True)),
    "half a TIFF": cut(encoded(kind="TIFF")),
    "half a BMP": cut(encoded(kind="BMP")),
    "half a JPEG 2000": cut(encoded(kind="JPEG2000")),
    "nothing": b"",
    "text": b"no image\n",
    "text in another language": "nenn mich nicht Bild, größer als 1000 Zeichen ".encode() * 50,
    "a web page": b"<!DOCTYPE html><html>404</html>",
    "random bytes": np.random.default_rng(1).bytes(3000),
    "zeros": bytes(3000),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_files(tmp_path, kind):
    (tmp_path / "p.jpg").write_bytes(DAMAGED[kind])
    for call in (read_rgb, as_rgb, lambda path: as_mask(path, (240, 400))):
        assert f"{tmp_path / 'p.jpg'} is not a readable image" in refusal(call, tmp_path / "p.jpg")


OTHERS = {
    "p.heic": (HEIC, "HEIC"),
    "heic.jpg": (HEIC, "HEIC"),
    "p.avif": (b"\0\0\0\x1cftypavif\0\0\0\0mif1avif" + bytes(64), "AVIF"),
    "p.svg": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing: export it as PNG"),
    "p.pdf": (b"%PDF-1.7\n", "a PDF: export the page as PNG"),
    "p.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript: export it as PNG"),
    "p.mp4": (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "a video: save a frame"),
    "p.mov": (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "a video: save a frame"),
    "p.avi": (b"RIFF\0\0\0\0AVI LIST", "a video: save a frame"),
    "p.mkv": (b"\x1aE\xdf\xa3" + bytes(30), "a video: save a frame"),
    "p.cr3": (b"\0\0\0\x18ftypcrx \0\0\0\0crx isom", "raw file: develop it"),
    "p.cr2": (b"II*\0\x10\0\0\0CR\x02\0" + bytes(40), "raw file: develop it"),
    "p.nef": (encoded(SMOOTH, "TIFF"), "raw file: develop it"),
    "dng.tif": (encoded(SMOOTH, "TIFF", tiffinfo={50706: b"\1\4\0\0"}), "raw file: develop it"),
    "thumbnail.tif": (encoded(SMOOTH, "TIFF", tiffinfo={254: 1}), "raw file: develop it"),
    "p.psd": (b"8BPS\0\1" + bytes(40), "Photoshop"),
    "p.jxl": (b"\xff\x0a" + bytes(40), "JPEG XL: convert it"),
    "p.exr": (b"\x76\x2f\x31\x01" + bytes(40), "OpenEXR: convert it"),
    "p.npy": (b"\x93NUMPY\x01\x00" + bytes(40), "np.load"),
    "p.zip": (b"PK\x03\x04" + bytes(40), "unpack it"),
    "lfs.jpg": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_kinds_of_files_are_named(tmp_path, name):
    content, expected = OTHERS[name]
    (tmp_path / name).write_bytes(content)
    message = refusal(read_rgb, tmp_path / name)
    assert f"{tmp_path / name} is " in message and expected in message
    assert refusal(image_size, tmp_path / name) == message


def test_avif_names_what_to_do_where_pillow_has_no_decoder(tmp_path, monkeypatch):
    (tmp_path / "p.jpg").write_bytes(OTHERS["p.avif"][0])
    Image.init()
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    assert "p.jpg is AVIF: convert to JPEG, or pip install -U pillow." in refusal(read_rgb, tmp_path / "p.jpg")


def test_heic_names_what_to_install_where_it_is_not_installed(tmp_path, monkeypatch):
    (tmp_path / "p.jpg").write_bytes(HEIC)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert "p.jpg is HEIC: convert to JPEG, or pip install pillow-heif." in refusal(read_rgb, tmp_path / "p.jpg")


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(BIG).save(tmp_path / "p.heic", quality=95)
    assert read_rgb(tmp_path / "p.heic").shape == (240, 400, 3)
    (tmp_path / "p.jpg").write_bytes(HEIC)
    assert "cannot read: convert it to JPEG" in refusal(read_rgb, tmp_path / "p.jpg")


@pytest.mark.parametrize("name", ["nothing.jpg", "file/nothing.jpg", "x" * 300 + ".jpg", "x\0.jpg", "two\nlines.jpg"])
def test_no_file(tmp_path, name):
    (tmp_path / "file").write_text("")
    message = refusal(read_rgb, f"{tmp_path}/{name}")
    assert "does not exist" in message or "cannot be read" in message


@pytest.mark.parametrize("path", ["https://example.org/p.jpg", "s3://bucket/p.jpg", "file:///p.jpg"])
def test_an_address_is_to_be_downloaded(path):
    for call in (read_rgb, as_rgb, lambda p: list(find_images(p)), lambda p: as_mask(p, (4, 5))):
        assert f"{path} is an address: download" in refusal(call, path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_is_no_plain_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "dead.jpg").symlink_to("nowhere")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for name, word in (("pipe.jpg", "a pipe"), ("dead.jpg", "dead link"), ("folder.jpg", "a folder: name an image")):
        assert f"{tmp_path / name} is " in (message := refusal(read_rgb, tmp_path / name)) and word in message
    assert "loop.jpg" in refusal(read_rgb, tmp_path / "loop.jpg")
    assert "a device" in refusal(read_rgb, "/dev/null")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read(tmp_path):
    SMOOTH.save(tmp_path / "p.png")
    (tmp_path / "p.png").chmod(0)
    assert "p.png cannot be read (permission denied)" in refusal(read_rgb, tmp_path / "p.png")


# --- large images ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("TIFF", {}), ("JPEG", {"progressive": True}), ("JPEG", {})]
)
def test_what_is_too_large_is_refused_before_it_is_decoded(tmp_path, monkeypatch, kind, options):
    (tmp_path / "p").write_bytes(encoded(kind=kind, **options)[:2000])
    monkeypatch.setattr(images, "LARGEST", 90_000)
    monkeypatch.setattr(images, "LARGEST_JPEG", 91_000)
    message = refusal(read_rgb, tmp_path / "p")
    assert f"{tmp_path / 'p'} has 400 × 240 px, which is larger than 9" in message and "shrink it" in message
    assert image_size(tmp_path / "p") == (240, 400)


def test_pil_has_no_say_in_what_is_large(tmp_path, monkeypatch):
    BIG.save(tmp_path / "p.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_rgb(tmp_path / "p.png").shape == (240, 400, 3)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.slow
def test_an_image_of_200_megapixels(tmp_path):
    Image.new("RGB", (16_320, 12_240), (90, 90, 90)).save(tmp_path / "p.jpg", quality=50)
    found = read_image(tmp_path / "p.jpg")
    assert found.pixels.shape == (12_240, 16_320, 3) and found.pixels[9, 9, 0] == 90 and not found.notes


# --- arrays, tensors, PIL images -------------------------------------------------------------------------------------

UNIT = RGB.astype(np.float32) / 255
TAKEN = {
    "uint8": RGB,
    "flipped": RGB[..., ::-1][..., ::-1],
    "read-only": np.frombuffer(RGB.tobytes(), np.uint8).reshape(RGB.shape),
    "int64": RGB.astype(np.int64),
    "uint16": RGB.astype(np.uint16) << 8 | 255,
    "float32 to 1": UNIT,
    "float64 to 255": RGB.astype(np.float64),
    "float16 to 255": RGB.astype(np.float16),
    "a hair out of range": UNIT * 1.0004,
    "channels first": RGB.transpose(2, 0, 1),
    "a batch of one": RGB[None],
    "a tensor, channels first": torch.tensor(UNIT).permute(2, 0, 1),
    "a tensor, channels last": torch.tensor(RGB),
    "a tensor of a batch of one": torch.tensor(UNIT).permute(2, 0, 1)[None],
    "a tensor with a gradient": torch.tensor(UNIT, requires_grad=True),
    "opaque": np.dstack([RGB, np.full((24, 40), 255, np.uint8)]),
    "opaque, to 1": np.dstack([UNIT, np.ones((24, 40), np.float32)]),
    "a PIL image": SMOOTH,
    "a PIL image in YCbCr": Image.merge("YCbCr", SMOOTH.convert("YCbCr").split()),
    "memory": memoryview(RGB),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_arrays_that_are_the_image(kind):
    found = as_rgb(TAKEN[kind])
    assert found.shape == RGB.shape and found.dtype == np.uint8 and found.flags.c_contiguous and found.flags.writeable
    assert np.abs(found.astype(int) - RGB).max() <= (4 if "YCbCr" in kind else 1)


@pytest.mark.parametrize("shape", [(24, 40), (24, 40, 1), (1, 24, 40), (1, 1, 24, 40)])
@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_grey_arrays(shape, kind):
    assert np.array_equal(as_rgb(kind(GREY.reshape(shape))), np.dstack([GREY] * 3))


def test_other_types_of_tensors_and_arrays():
    assert np.abs(as_rgb(torch.tensor(UNIT).bfloat16()).astype(int) - RGB).max() <= 2
    assert as_rgb(np.array([[True, False]]))[0, :, 0].tolist() == [255, 0]
    assert as_rgb(torch.zeros(3, 1, 3)).shape == (1, 3, 3)  # channels of a tensor come first
    assert as_rgb(np.zeros((1, 1, 3), np.uint8)).shape == (1, 1, 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_tensor_on_the_graphics_card():
    assert np.array_equal(as_rgb(torch.tensor(RGB).cuda()), RGB)


NORMALISED = torch.randn(3, 24, 40, generator=torch.Generator().manual_seed(0))
REFUSED = {
    "nothing": (None, "not None"),
    "a number": (7, "not 7"),
    "a list": ([[0, 1]], "not a list"),
    "bytes": (b"\xff\xd8", "not a bytes"),
    "an open file": (io.BytesIO(encoded()), "not a BytesIO"),
    "an object": (object(), "not an object"),
    "empty": (np.zeros((0, 5, 3), np.uint8), "[0, 5, 3] uint8"),
    "no channel": (np.zeros((5, 5, 0), np.uint8), "[5, 5, 0] uint8"),
    "a line": (np.zeros(5), "[5] float64"),
    "five channels": (np.zeros((5, 6, 5)), "[5, 6, 5] float64"),
    "a batch": (torch.zeros(2, 3, 8, 8), "[2, 3, 8, 8] float32"),
    "normalised": (NORMALISED, "Undo the normalisation"),
    "NaN": (torch.full((3, 4, 4), torch.nan), "with values from nan"),
    "out of range": (np.full((4, 4), 70_000), "with values from 7e+04"),
    "negative": (np.full((4, 4), -1), "with values from -1"),
    "complex": (np.zeros((4, 4), complex), "complex128"),
    "text": (np.array([["a"]]), "[1, 1] str"),
    "objects": (np.array([[None]]), "[1, 1] object"),
    "a tensor without data": (torch.zeros(3, 4, 4, device="meta"), "cannot be read as an array"),
    "a sparse tensor": (torch.zeros(4, 4).to_sparse(), "cannot be read as an array"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_arrays_that_are_no_image(kind):
    value, expected = REFUSED[kind]
    assert expected in refusal(as_rgb, value)
    refusal(as_mask, value, (5, 5))


def test_a_pil_image_whose_file_is_damaged_or_closed(tmp_path):
    (tmp_path / "p.jpg").write_bytes(HALF)
    with Image.open(tmp_path / "p.jpg") as image:
        assert "a PIL image, cannot be read" in refusal(as_rgb, image)
    SMOOTH.save(tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        pass
    assert "closed" in refusal(as_rgb, image)


NUMBERS = [
    np.bool_,
    np.uint8,
    np.int8,
    np.uint16,
    np.int32,
    np.uint64,
    np.float16,
    np.float32,
    np.float64,
    np.complex64,
]
ARRAYS = st.sampled_from(NUMBERS).flatmap(
    lambda kind: drawn.arrays(kind, drawn.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)


def is_rgb(found) -> bool:
    return found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3 and found.size > 0


@settings(deadline=None, max_examples=150)
@given(ARRAYS, st.booleans())
def test_any_array_becomes_an_image_or_one_sentence(array, tensor):
    value = array
    if tensor:
        value = torch.tensor(array)
    try:
        assert is_rgb(as_rgb(value))
    except LlafsError as error:
        assert str(error).endswith(".") and len(str(error)) < 300


@settings(deadline=None, max_examples=150)
@given(ARRAYS, st.tuples(st.integers(1, 5), st.integers(1, 5)))
def test_any_array_becomes_a_mask_or_one_sentence(array, size):
    try:
        found = as_mask(array, size)
        assert found.shape == size and found.dtype == bool
    except LlafsError as error:
        assert str(error).endswith(".") and len(str(error)) < 300


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"]), st.data())
def test_a_damaged_file_becomes_an_image_or_one_sentence(tmp_path_factory, kind, data):
    content = bytearray(encoded(SMOOTH, kind))
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
        content[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "drawn.jpg"
    path.write_bytes(content)
    try:
        assert is_rgb(read_rgb(path))
    except LlafsError as error:
        assert "drawn.jpg" in str(error) and " at 0x" not in str(error) and len(str(error)) < 400


# --- masks -----------------------------------------------------------------------------------------------------------

MASK = GREY > np.median(GREY)  # [24, 40]
COLOURED = np.where(MASK[..., None], np.uint8([128, 0, 0]), np.uint8([0, 0, 0]))
OBJECT_ONLY = np.dstack([RGB * 0, MASK * np.uint8(255)])
MASKS = {
    "bool": MASK,
    "0 and 1": MASK.astype(np.uint8),
    "0 and 255": MASK * np.uint8(255),
    "0 and 38": MASK * np.int64(38),
    "0 and 65,535": MASK * np.uint16(65_535),
    "0.0 and 255.0": MASK * 255.0,
    "soft": np.where(MASK, 0.5, 0.4999),
    "soft float32": np.where(MASK, np.float32(0.9), np.float32(0.2)),
    "one channel first": MASK[None],
    "one channel last": MASK[..., None],
    "a batch of one": torch.tensor(MASK)[None, None],
    "three equal channels": np.dstack([MASK * np.uint8(255)] * 3),
    "one colour on black": COLOURED,
    "opacity": OBJECT_ONLY,
    "strokes of an editor": np.dstack([MASK * np.uint8(255)] * 4),
    "1 bit": Image.fromarray(MASK),
    "white first in the palette": Image.fromarray(MASK * np.uint8(255)).convert("P"),
    "one colour of a palette": Image.fromarray(COLOURED).quantize(2),
    "fractions": Image.fromarray(MASK.astype(np.float32)),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks_that_are_taken(kind):
    found = as_mask(MASKS[kind], (24, 40))
    assert found.dtype == bool and found.flags.c_contiguous and np.array_equal(found, MASK)


def test_soft_edges_are_taken_as_fractions_as_the_refusal_says():
    soft = np.array(Image.fromarray(MASK * np.uint8(255)).resize((80, 48), Image.Resampling.BILINEAR))
    assert "divided by 255" in refusal(as_mask, soft, (48, 80))
    assert np.array_equal(as_mask(soft / 255, (48, 80)), soft > 127)


@pytest.mark.parametrize("kind", ["1 bit", "white first in the palette", "one colour of a palette", "fractions"])
def test_masks_in_files(tmp_path, kind):
    MASKS[kind].save(tmp_path / "m.tif")
    assert np.array_equal(as_mask(tmp_path / "m.tif", (24, 40)), MASK)


def test_a_mask_is_taken_as_it_is():
    assert not as_mask(np.zeros((4, 5), np.uint8), (4, 5)).any()
    assert as_mask(np.full((4, 5), 255, np.uint8), (4, 5)).all()
    assert as_mask(np.zeros((1, 1)), (1, 1)).shape == (1, 1)
    assert as_mask(np.ones((1, 5, 3)), (5, 3)).shape == (5, 3)


LABELS = np.uint8([[0, 38, 75], [0, 0, 255]])


@pytest.mark.parametrize(
    "values", [LABELS, LABELS / 255 * 9, np.uint8([[1, 2, 1]] * 2), np.array([[0, np.nan, 1]] * 2), -np.eye(2, 3)]
)
def test_label_maps_are_no_masks(tmp_path, values):
    message = refusal(as_mask, values, (2, 3))
    assert "several classes or no clear border" in message and "0 and one other value" in message
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "m.tif")
    assert "m.tif holds several" in refusal(as_mask, tmp_path / "m.tif", (2, 3))


def test_two_colours_are_two_classes():
    assert "several" in refusal(as_mask, np.uint8([[[128, 0, 0], [0, 128, 0], [0, 0, 0]]]), (1, 3))


def test_a_mask_of_another_size(tmp_path):
    Image.fromarray(MASK).save(tmp_path / "m.png")
    for mask, name in ((MASK, "the mask"), (str(tmp_path / "m.png"), str(tmp_path / "m.png"))):
        assert refusal(as_mask, mask, (40, 24)).startswith(f"{name} is 40 × 24 px, but the image is 24 × 40 px")


# --- finding files ---------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jpg", "a.PNG", "c.tiff", "sub/d.webp", ".hidden.jpg", "._b.jpg", "notes.txt", "sub/.cache/e.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.jpg").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (".", "a.PNG b.jpg c.tiff"),
        ("*", "a.PNG b.jpg c.tiff"),
        ("*.jpg", "b.jpg"),
        ("**/*", "a.PNG b.jpg c.tiff sub/d.webp"),
        ("sub", "sub/d.webp"),
        (["c.tiff", ".", "b.jpg"], "c.tiff a.PNG b.jpg"),
        ([".", "sub/../sub"], "a.PNG b.jpg c.tiff sub/../sub/d.webp"),
        ("notes.txt", "notes.txt"),
        (".hidden.jpg", ".hidden.jpg"),
    ],
)
def test_files_folders_and_patterns(folder, monkeypatch, what, expected):
    monkeypatch.chdir(folder)
    assert [p.as_posix() for p in find_images(what)] == expected.split()


def test_an_endless_iterator_is_taken(folder):
    def endless():
        while True:
            yield folder / "b.jpg"
            yield folder

    found = find_images(endless())
    assert [next(found).name for _ in range(3)] == ["b.jpg", "a.PNG", "c.tiff"]


@pytest.mark.parametrize("what", ["nothing.jpg", "*.gif", "empty", [], ["b.jpg", "nothing.jpg"], None, 7, [None], b"b"])
def test_nothing_to_find_is_said_at_once(folder, monkeypatch, what):
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir()
    refusal(find_images, what)

"""What a file is that is no image we read, told by its first bytes, and what to do with it."""

from __future__ import annotations

import importlib.util

from PIL import Image

# As PIL names them. Not EPS and its like, for which PIL starts other programs; not TGA, which any bytes may look like.
FORMATS = tuple("JPEG MPO PNG GIF WEBP TIFF BMP DIB PPM JPEG2000 AVIF HEIF ICO PCX SGI".split())
SUFFIXES = frozenset(
    ".jpg .jpeg .jfif .png .apng .gif .webp .tif .tiff .bmp .dib .ppm .pgm .pbm .pnm .jp2 .avif .heic .heif".split()
)
RAW = frozenset(
    ".3fr .arw .cr2 .cr3 .dng .erf .iiq .kdc .mrw .nef .nrw .orf .pef .raf .raw .rw2 .rwl .sr2 .srf .srw .x3f".split()
)

RAW_FILE = "a camera's raw file: develop it to JPEG or PNG."
_VIDEO = "a video: save a frame of it as PNG."
_TEXT = "not a readable image: it is text. Replace or download it again."
_DAMAGED = "not a readable image: it is a damaged or rare kind of {}. Replace it, or save it again as an 8-bit PNG."

_STARTS = {  # what a file is → the bytes that it begins with; the first that fits counts
    _DAMAGED.format("JPEG"): (b"\xff\xd8",),
    _DAMAGED.format("PNG"): (b"\x89PNG",),
    _DAMAGED.format("GIF"): (b"GIF8",),
    RAW_FILE: (b"II*\0\x10\0\0\0CR", b"FUJIFILM", b"IIRO", b"IIU\0"),
    _DAMAGED.format("TIFF"): (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    _DAMAGED.format("BMP"): (b"BM",),
    "a PDF: export the page as PNG.": (b"%PDF",),
    "PostScript: export it as PNG.": (b"%!PS",),
    "a Photoshop file: export it as PNG.": (b"8BPS",),
    "JPEG XL: convert it to JPEG or PNG.": (b"\xff\x0a", b"\0\0\0\x0cJXL "),
    "OpenEXR: convert it to PNG.": (b"\x76\x2f\x31\x01",),
    _VIDEO: (b"\x1aE\xdf\xa3", b"FLV\x01", b"\0\0\x01\xba", b"\0\0\x01\xb3"),
    "a NumPy file: hand over what np.load gives.": (b"\x93NUMPY",),
    "an archive: unpack it first.": (b"PK\x03\x04", b"\x1f\x8b"),
    "a Git LFS pointer: fetch the image with `git lfs pull`.": (b"version https://git-lfs",),
}
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def what_it_is(head: bytes, suffix: str = "") -> str:
    """The end of the sentence "FILE is …", with the remedy, made of a file's first bytes."""
    if head[4:8] == b"ftyp":
        return _box(head)
    if head[:4] == b"RIFF":
        return _DAMAGED.format("WebP") if head[8:12] == b"WEBP" else _VIDEO
    sentence = next((sentence for sentence, starts in _STARTS.items() if head.startswith(starts)), None)
    if suffix.lower() in RAW:
        return RAW_FILE
    if sentence:
        return sentence
    lower = head.lower()
    if b"<svg" in lower:
        return "an SVG drawing: export it as PNG."
    if b"<html" in lower or b"<!doctype html" in lower:
        return "not a readable image: it is a web page. Download the image itself."
    return _TEXT if _is_text(head) else "not a readable image: its kind is unknown. Save it as JPEG or PNG."


def _box(head: bytes) -> str:
    """Kinds that share the container of MP4: each names its brands in the first box."""
    brands = {head[at : at + 4] for at in range(8, min(len(head), int.from_bytes(head[:4])), 4)}
    if head[8:12] == b"crx ":
        return RAW_FILE
    if brands & {b"avif", b"avis"}:
        return _DAMAGED.format("AVIF") if "AVIF" in Image.OPEN else "AVIF: convert to JPEG, or pip install -U pillow."
    if not brands & set(_HEIC):
        return _VIDEO
    if importlib.util.find_spec("pillow_heif") is None:
        return "HEIC: convert to JPEG, or pip install pillow-heif."
    return "HEIC that pillow-heif cannot read: convert it to JPEG."


def _is_text(head: bytes) -> bool:
    try:
        text = head[:1000].decode("utf-8", "strict" if len(head) < 1000 else "ignore")
    except UnicodeDecodeError:
        return False
    return all(c.isprintable() or c.isspace() for c in text)

"""What a file is by its first bytes, for errors in words that help: `report.jpg` is often no picture at all."""

from __future__ import annotations

__all__ = ["HEAD_BYTES", "is_dicom", "kind_of_content"]

HEAD_BYTES = 512
"""How much of a file is_dicom and kind_of_content look at."""

_DICOM_ENDINGS = (".dcm", ".dicom")
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF", b"\0\0\0\x0cjP", b"P5", b"P6")
_LFS = b"version https://git-lfs.github.com/spec/"
_HEIC = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_VIDEO = (b"isom", b"iso2", b"mp41", b"mp42", b"avc1", b"M4V ", b"qt  ")
_STARTS = (
    (_LFS, "a Git LFS pointer in place of the file; run `git lfs pull`"),
    (b"%!PS", "PostScript (EPS), which is a program and never run; save it as PNG"),
    (b"\xc5\xd0\xd3\xc6", "PostScript (EPS), which is a program and never run; save it as PNG"),
    (b"%PDF", "a PDF document; save its picture as PNG"),
    (b"\xd7\xcd\xc6\x9a", "a Windows metafile; save it as PNG"),
    (b"\x00\x05\x16\x07", "side data of macOS (AppleDouble)"),
    (b"\x00\x00\x01\x00", "an icon (ICO); save it as PNG"),
    (b"8BPS", "a Photoshop document; save it as PNG"),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"\x1f\x8b", "compressed by gzip; unpack it"),
    (b"BZh", "compressed by bzip2; unpack it"),
    (b"\xfd7zXZ", "compressed by xz; unpack it"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (b"Rar!", "a RAR archive; unpack it"),
    (b"\xd0\xcf\x11\xe0", "a document of Microsoft Office; save its content as a file of the kind that is read"),
    (b"\x93NUMPY", "a single NumPy array (.npy)"),
    (b"\xff\x0a", "JPEG XL; save it as PNG"),
    (b"<svg", "an SVG drawing; save it as PNG"),
    (b"<?xml", "XML text"),
    (b"<!doctype", "a web page, perhaps an error page of a download"),
    (b"<html", "a web page, perhaps an error page of a download"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x5c\x01\x00\x00", "a NIfTI volume; cut it into pictures"),
    (b"II*\x00", "a TIFF of a kind that is not read"),
    (b"MM\x00*", "a TIFF of a kind that is not read"),
)


def is_dicom(head: bytes, name: str) -> bool:
    """Whether a file is DICOM: by the mark behind its preamble, or by the ending of its name and no other's mark."""
    if head[128:132] == b"DICM":
        return True
    others = (*_PICTURES, *(mark for mark, _ in _STARTS))
    return name.lower().endswith(_DICOM_ENDINGS) and bool(head) and not head.startswith(others)


def kind_of_content(head: bytes) -> str | None:
    """What a file that is no readable picture seems to be; None if nothing is known."""
    if not head:
        return "an empty file"
    start = head.lstrip()[:16].lower() if head[:1] in b"< \t\r\n\xef" else head
    kind = next((what for mark, what in _STARTS if start.startswith(mark)), None)
    if kind is None and head[4:8] == b"ftyp":
        kind = "HEIC, which is not read; save it as JPEG or PNG" if head[8:12] in _HEIC else None
        kind = "a video; save single pictures of it" if head[8:12] in _VIDEO else kind
    return kind

"""DICOM pictures are shown as the standard says, and nothing of a patient leaves the file."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    MPEG2MPML,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)
from tests.datasets.dicom_files import PATIENT, RAMP, dicom

from fedafd.datasets.decoding import MAX_PIXELS, as_rgb, decode_image, has_several_frames
from fedafd.domain.errors import DataError


def grey(content: bytes, **options: Any) -> np.ndarray[Any, Any]:
    made = decode_image(content, "x.dcm", **options)
    assert made.shape[2] == 3 and np.ptp(made, axis=2).max() == 0
    return made[:, :, 0]


def near(made: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> None:
    assert np.abs(made.astype(float) - np.clip(expected, 0, 255)).max() <= 0.51


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_without_a_window_all_stored_bits_are_scaled_in_every_uncompressed_syntax(syntax: UID) -> None:
    near(grey(dicom(RAMP, syntax=syntax)), RAMP * 255.0 / 4095)


@settings(deadline=None, max_examples=40)
@given(
    slope=st.sampled_from([1.0, 0.5, 2.0, -1.0]),
    intercept=st.sampled_from([0.0, -1024.0, 10.5]),
    centre=st.integers(-500, 2000),
    width=st.integers(2, 3000),
    inverted=st.booleans(),
    several=st.booleans(),
)
def test_rescaling_then_the_first_window_then_the_photometric_interpretation(
    slope: float, intercept: float, centre: int, width: int, inverted: bool, several: bool
) -> None:
    content = dicom(
        RAMP,
        RescaleSlope=slope,
        RescaleIntercept=intercept,
        WindowCenter=[centre, 1] if several else centre,
        WindowWidth=[width, 2] if several else width,
        PhotometricInterpretation="MONOCHROME1" if inverted else "MONOCHROME2",
    )
    values = RAMP * slope + intercept
    shown = ((values - (centre - 0.5)) / (width - 1) + 0.5) * 255.0
    if shown.max() < 0 or shown.min() > 255:
        with pytest.raises(DataError, match="the window in the file shows none of its values"):
            grey(content)
        return
    shown = np.clip(shown, 0, 255)
    near(grey(content), 255.0 - shown if inverted else shown)


def test_the_range_given_outranks_the_window_and_is_in_the_rescaled_unit() -> None:
    content = dicom(RAMP, RescaleIntercept=-1024, RescaleSlope=1, WindowCenter=40, WindowWidth=400)
    near(grey(content, intensity_range=(-1000, 1000)), (RAMP - 1024.0 + 1000) * 255 / 2000)


def test_exact_and_sigmoid_windows() -> None:
    window: dict[str, Any] = {"WindowCenter": 2000, "WindowWidth": 1000}
    near(grey(dicom(RAMP, VOILUTFunction="LINEAR_EXACT", **window)), ((RAMP - 2000.0) / 1000 + 0.5) * 255)
    sigmoid = 255 / (1 + np.exp(-4 * (RAMP - 2000.0) / 1000))
    near(grey(dicom(RAMP, VOILUTFunction="SIGMOID", **window)), sigmoid)


def test_signed_numbers_and_a_window_of_no_width() -> None:
    signed = (RAMP.astype(np.int16) - 2048).astype(np.int16)
    content = dicom(signed, WindowCenter=0, WindowWidth=0)
    near(grey(content), RAMP * 255.0 / 4095)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_tables_of_the_modality_and_of_the_values_of_interest(bits: int) -> None:
    table = Dataset()
    table.LUTDescriptor = [4096, 0, bits]
    entries = np.rint(np.sqrt(np.arange(4096) / 4095) * (2**bits - 1)).astype("<u2")
    table.add_new("LUTData", "OW", entries.tobytes())
    table["LUTDescriptor"].VR = "US"
    expected = entries[RAMP] * 255.0 / (2**bits - 1)
    near(grey(dicom(RAMP, VOILUTSequence=Sequence([table]))), expected)
    near(grey(dicom(RAMP, ModalityLUTSequence=Sequence([table]))), expected)


def test_twelve_bits_in_a_file_that_says_sixteen_are_refused_unless_a_range_is_given() -> None:
    content = dicom(RAMP, BitsStored=16, HighBit=15)
    with pytest.raises(DataError, match=r"x.dcm: .*12 bits or fewer.*intensity_range"):
        grey(content)
    near(grey(content, intensity_range=(0, 4095)), RAMP * 255.0 / 4095)


def test_an_enhanced_file_of_one_frame_keeps_its_window_in_a_group() -> None:
    window, shared = Dataset(), Dataset()
    window.WindowCenter, window.WindowWidth = 1000, 500
    shared.FrameVOILUTSequence = Sequence([window])
    content = dicom(RAMP, SharedFunctionalGroupsSequence=Sequence([shared]), NumberOfFrames=1)
    near(grey(content), ((RAMP - 999.5) / 499 + 0.5) * 255)


def test_colours_are_read_plane_by_plane_and_from_luminance() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode_image(dicom(rgb), "x"), rgb)
    planes = dicom(rgb, PlanarConfiguration=1, PixelData=rgb.transpose(2, 0, 1).tobytes())
    np.testing.assert_array_equal(decode_image(planes, "x"), rgb)
    luminance = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    made = decode_image(dicom(luminance, PhotometricInterpretation="YBR_FULL"), "x")
    assert np.abs(made.astype(int) - rgb).max() <= 3


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_gives_colours(bits: int) -> None:
    index = np.arange(256, dtype=np.uint8).reshape(16, 16)
    tables = np.random.default_rng(1).integers(0, 2**bits, (3, 256)).astype("<u2" if bits == 16 else "u1")
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        tags[f"{colour}PaletteColorLookupTableData"] = table.tobytes()
    made = decode_image(dicom(index, **tags), "x")
    expected = tables.astype(float).T[index] * 255 / (2**bits - 1)
    assert np.abs(made - expected).max() <= 0.51


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGBaseline8Bit, RLELossless])
def test_compressed_pixels_are_read(syntax: UID) -> None:
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    if syntax == RLELossless:
        data = dcmread(io.BytesIO(dicom(smooth)))
        data.compress(RLELossless)
        buffer = io.BytesIO()
        data.save_as(buffer)
        content = buffer.getvalue()
    else:
        form = io.BytesIO()
        options = {"quality": 95} if syntax == JPEGBaseline8Bit else {"no_jp2": True, "irreversible": False}
        Image.fromarray(smooth).save(form, format="JPEG" if syntax == JPEGBaseline8Bit else "JPEG2000", **options)
        content = dicom(smooth, syntax=syntax, PixelData=encapsulate([form.getvalue()]))
    assert np.abs(grey(content).astype(int) - smooth).max() <= 2


@pytest.mark.parametrize("kind", ["JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless"])
@pytest.mark.parametrize("signed", [False, True])
def test_lossless_pixels_of_12_bits_are_the_same_as_uncompressed(tmp_path: Path, kind: str, signed: bool) -> None:
    plain = dicom((RAMP.astype(np.int16) - 2048).astype(np.int16) if signed else RAMP)
    np.testing.assert_array_equal(grey(_compressed(tmp_path, plain, kind)), grey(plain))


def test_pixels_that_no_decoder_reads_are_refused_with_their_transfer_syntax(tmp_path: Path) -> None:
    content = _compressed(tmp_path, dicom(RAMP), "JPEGExtendedProcess2_4")
    with pytest.raises(DataError, match=r"x.dcm: .*its pixels \(JPEG Extended .*\) cannot be decoded; save it"):
        decode_image(content, "x.dcm")


def _compressed(folder: Path, content: bytes, kind: str) -> bytes:
    import gdcm  # type: ignore[import-untyped]

    (folder / "plain").write_bytes(content)
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(folder / "plain"))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, kind)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(folder / "made"))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return (folder / "made").read_bytes()


@pytest.mark.parametrize(
    ("syntax", "words"), [(HTJ2KLossless, "High-Throughput JPEG 2000"), (MPEG2MPML, "MPEG2"), ("1.2.3.99", "unknown")]
)
def test_a_transfer_syntax_that_is_not_read_is_named(syntax: str, words: str) -> None:
    content = _with_syntax(dicom(RAMP), syntax)
    with pytest.raises(DataError, match=rf"x.dcm: its transfer syntax \(.*{words}.*\) is not read"):
        decode_image(content, "x.dcm")


def _with_syntax(content: bytes, syntax: str) -> bytes:
    data = dcmread(io.BytesIO(content))
    data.file_meta.TransferSyntaxUID = UID(syntax)
    data.PixelData = encapsulate([b"\0" * 8])
    data["PixelData"].is_undefined_length = True
    buffer = io.BytesIO()
    data.save_as(buffer, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("tags", "match"),
    [
        ({"NumberOfFrames": 3}, "a DICOM file of 3 frames; save each"),
        ({"PixelData": None}, "without a picture"),
        ({"Rows": 60000, "Columns": 60000}, "60000 x 60000 pixels are more than"),
        ({"PixelData": b"\0" * 10}, "not readable as a DICOM picture"),
        ({"Rows": None}, "not readable as a DICOM picture"),
        ({"PhotometricInterpretation": "HSV"}, "not readable as a DICOM picture|whose colours are of no kind"),
        ({"PhotometricInterpretation": PATIENT}, "not readable as a DICOM picture|whose colours are of no kind"),
    ],
)
def test_what_is_no_single_picture_is_refused(tags: dict[str, Any], match: str) -> None:
    assert MAX_PIXELS < 60000**2
    with pytest.raises(DataError, match=f"^x.dcm: .*({match})") as caught:
        decode_image(dicom(RAMP, **tags), "x.dcm")
    assert "DOE" not in str(caught.value)


def test_a_file_is_known_by_its_mark_or_by_its_ending(tmp_path: Path) -> None:
    (tmp_path / "IM0001").write_bytes(dicom(RAMP))
    near(as_rgb(tmp_path / "IM0001")[:, :, 0], RAMP * 255.0 / 4095)
    bare = dicom(RAMP, syntax=ImplicitVRLittleEndian, preamble=False)
    assert bare[128:132] != b"DICM"
    near(grey(bare), RAMP * 255.0 / 4095)
    assert not has_several_frames(dicom(RAMP), "x")
    with pytest.raises(DataError, match=r"notes.dcm: a DICOM file without a picture|notes.dcm: not readable"):
        decode_image(b"these are notes and nothing else, long enough to be read as something" * 4, "notes.dcm")


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_nothing_of_the_patient_shows_in_an_error_a_log_or_a_warning(data: st.DataObject) -> None:
    content = bytearray(dicom(RAMP[:4, :4], WindowCenter=100, WindowWidth=200, PhotometricInterpretation="MONOCHROME1"))
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(128, len(content) - 1))] = data.draw(st.integers(0, 255))
    records: list[str] = []
    handler = logging.Handler(level=0)
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                decode_image(bytes(content), "x.dcm")
            except DataError as error:
                records.append(str(error))
        records += [str(warning.message) for warning in told]
    finally:
        logging.getLogger().removeHandler(handler)
    assert not any("DOE" in text or "JANE" in text or "SECRET" in text for text in records)


def test_without_the_extra_an_error_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(dicom(RAMP))
    code = (
        "import sys; sys.modules['pydicom'] = None\n"
        "from fedafd.datasets.decoding import as_rgb\nfrom fedafd.domain.errors import FedafdError\n"
        f"try: as_rgb({str(tmp_path / 'a.dcm')!r})\nexcept FedafdError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'fedafd[dicom]'" in done.stdout


@pytest.mark.parametrize(
    ("pixels", "tags", "match"),
    [
        (RAMP, {"PixelData": RAMP.tobytes() * 2}, r"pixels of shape \[2, 64, 64\]: several frames"),
        (np.zeros((4, 4, 3), np.uint8), {"PhotometricInterpretation": "MONOCHROME2"}, "several frames or colours"),
        (RAMP, {"RescaleSlope": 0, "RescaleIntercept": 5}, "its rescale slope is 0"),
        (RAMP, {"RescaleSlope": 0, "WindowCenter": 1, "WindowWidth": 9}, "its rescale slope is 0"),
        (RAMP << 4, {"HighBit": 15}, r"12 stored bits end at bit 15, not 11"),
        (RAMP, {"HighBit": 7}, r"12 stored bits end at bit 7, not 11"),
        (RAMP * 16, {}, r"more than the 12 bits"),
        (RAMP, {"BitsStored": 10, "HighBit": 9}, r"more than the 10 bits"),
        ((RAMP << 3).astype(np.int16), {}, r"more than the 12 bits"),
        (RAMP, {"BitsStored": 20, "HighBit": 19}, "20 bits are stored of 16"),
        (RAMP, {"BitsStored": 0, "HighBit": 0}, "0 bits are stored of 16"),
    ],
)
def test_numbers_that_would_come_out_wrong_are_refused(
    pixels: np.ndarray[Any, Any], tags: dict[str, Any], match: str
) -> None:
    with pytest.raises(DataError, match=f"^x.dcm: .*{match}") as caught:
        decode_image(dicom(pixels, **tags), "x.dcm")
    assert "DOE" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_signs_that_go_on_to_the_top_or_stop_at_the_stored_bits_are_the_same_picture(syntax: UID) -> None:
    signed = (RAMP.astype(np.int16) - 2048).astype(np.int16)
    near(grey(dicom(signed, syntax=syntax)), RAMP * 255.0 / 4095)
    near(grey(dicom(signed & 0xFFF, syntax=syntax)), RAMP * 255.0 / 4095)


def test_an_overlay_in_the_free_bits_is_not_part_of_the_picture() -> None:
    data = dcmread(io.BytesIO(dicom(RAMP | 0x8000)))
    data.add_new(0x60000102, "US", 15)
    buffer = io.BytesIO()
    data.save_as(buffer)
    near(grey(buffer.getvalue()), RAMP * 255.0 / 4095)


@pytest.mark.parametrize("inverted", [False, True])
def test_a_window_of_width_1_has_two_shades(inverted: bool) -> None:
    kind = "MONOCHROME1" if inverted else "MONOCHROME2"
    made = grey(dicom(RAMP, WindowCenter=1000, WindowWidth=1, PhotometricInterpretation=kind))
    np.testing.assert_array_equal(made, np.where((RAMP > 999.5) != inverted, 255, 0))

"""DICOM files made by code; a test changes one tag."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

PATIENT = "DOE^JANE^SECRET"
RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def dicom(
    pixels: np.ndarray[Any, Any], *, syntax: UID = ExplicitVRLittleEndian, preamble: bool = True, **tags: Any
) -> bytes:
    """A file of one picture, or of several frames; `tags` are set last, and None takes one away."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = UID("1.2.3.4")
    data.PatientName, data.PatientID, data.StudyDescription = PATIENT, PATIENT, PATIENT
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel = pixels.shape[2] if pixels.ndim == 3 else 1
    if data.SamplesPerPixel > 1:
        data.PlanarConfiguration = 0
    data.PhotometricInterpretation = "RGB" if data.SamplesPerPixel == 3 else "MONOCHROME2"
    data.BitsAllocated = 8 * pixels.dtype.itemsize
    data.BitsStored = 12 if data.BitsAllocated == 16 else data.BitsAllocated
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    big = syntax == ExplicitVRBigEndian
    data.PixelData = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<")).tobytes()
    data["PixelData"].VR = "OW" if data.BitsAllocated == 16 else "OB"
    for name, value in tags.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    buffer = io.BytesIO()
    if not preamble:
        del data.file_meta
        data.save_as(buffer, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)
    else:
        data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()

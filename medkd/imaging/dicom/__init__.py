"""DICOM files: found by their headers, planned as volumes with exact geometry or a reason, and read."""

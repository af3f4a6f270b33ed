"""medkd preview: a scan and its mask as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def preview(
    image: Annotated[Path, typer.Argument(help="NIfTI, NRRD, or a DICOM file, folder or zip of one volume")],
    mask: Annotated[Path | None, typer.Argument(help="NIfTI, NRRD, DICOM SEG or RTSTRUCT on the image's grid")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="the PNG to write")] = Path("preview.png"),
) -> None:
    """Draw three planes of a scan in true proportions, with the mask outlined. The picture names no patient."""
    from medkd.runs.preview import preview as run

    done = run(image, out, mask)
    for note in done.notes:
        print(f"note: {note}")
    print(done.file)

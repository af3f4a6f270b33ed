"""medkd: semi-supervised and source-free adaptation for medical imaging."""

from importlib.metadata import version

__version__ = version("medkd")

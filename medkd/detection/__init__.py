"""Detection with few or no labels: Grounded Teacher, what it is compared with, and the detectors they train."""

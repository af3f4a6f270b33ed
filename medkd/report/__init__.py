"""Pictures, curves and self-contained HTML pages."""

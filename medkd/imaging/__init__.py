"""Scans on disk to arrays with geometry, and back."""

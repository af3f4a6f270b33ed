"""Detectors behind one protocol (protocol.py); options.py names them."""

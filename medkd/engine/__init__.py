"""Trains a student with its teachers. Knows no task, no file format and no method by name."""

"""Distillation losses, one file each: a pure function, and a thin module that stores its options."""

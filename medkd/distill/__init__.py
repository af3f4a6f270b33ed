"""Knowledge distillation of any task."""

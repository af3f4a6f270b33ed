"""Knowledge distillation: a small student learns from a strong teacher, whatever their task."""

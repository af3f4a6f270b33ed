"""Methods with trainable parts, phases or state of their own."""

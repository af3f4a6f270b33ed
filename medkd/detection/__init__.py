"""Object detection: source-free adaptation of detectors and its baselines."""

"""What human labels say of predictions: matches, calibration, certified thresholds, gates."""

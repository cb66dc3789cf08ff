"""Training: losses so far; the trainer itself is not part of this version."""

"""Training: one loop for every objective and coupling, and what keeps a long run safe."""

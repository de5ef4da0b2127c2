"""A section of the report for points in the plane: densities, particles and lines that cross."""

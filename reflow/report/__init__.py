"""What people see: progress, pictures, plots and the report."""

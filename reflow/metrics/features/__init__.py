"""Networks by whose features samples are compared."""

"""Sampling: noise by number, a method for it, and the plan that several jobs follow."""

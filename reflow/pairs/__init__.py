"""Pairs (noise, generated sample): stored in shards, written, mixed, and checked for collapse."""

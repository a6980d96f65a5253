"""Benchmarks: one command each, one JSON file each."""

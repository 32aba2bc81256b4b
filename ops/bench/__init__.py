"""Benches: each compares the product with a floor, in one run, on the same machine, and prints both."""

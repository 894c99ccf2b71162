"""Benchmarks: `make bench`. Ratios within one run; absolute figures belong to the machine that printed them."""

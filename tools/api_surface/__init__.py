"""Compares the public names of an installed Kombu with those of kombu_rs."""

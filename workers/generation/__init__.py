"""Generators: how an answer is made from a question and the passages found for it."""

"""Retrieval: documents become passages with embeddings, every worker indexes them and finds the nearest to a
question.

Modules are imported one by one: `embedder`, `index` and what builds on them need the extra `worker`.
"""

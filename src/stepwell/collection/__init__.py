"""Passages, queries and relevance labels."""

"""Tests of builder.buckets."""

"""Generators: a folder or hub id in diffusers format behind velocity, encode and decode."""

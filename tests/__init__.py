"""Tests mirror the packages; `tolerances` holds every numeric bound they use."""

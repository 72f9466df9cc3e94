"""A study in other forms than its page: a deck of slides, tables for LaTeX, tables as CSV."""

"""TL;DR's schema and OpenAI's preprocessing, the embedded corpus, and loaders of files: rows in, rows out."""

"""What a person opens: the pages, their templates, and the words around the figures."""

"""What is drawn: each figure is a tidy frame and a drawing of that frame alone."""

"""What a maintainer runs; nothing of it is in the program."""

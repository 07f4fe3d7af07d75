"""What each stage reads and writes. One module a stage; stages meet in files."""

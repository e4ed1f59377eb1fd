"""What training and reading a YOLOX takes: its assignment, its loss, its scores."""

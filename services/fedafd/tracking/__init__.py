"""Metrics of runs in the tools that people watch them with: TensorBoard, or a tracker of one's own."""

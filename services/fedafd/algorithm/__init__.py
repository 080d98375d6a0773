"""The mathematics of FedAFD (arXiv 2603.04890) and its rivals in pure PyTorch: tensors in, tensors out, no files."""

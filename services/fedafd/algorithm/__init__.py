"""The algorithm of FedAFD (arXiv 2603.04890) in pure PyTorch: tensors in, tensors out, no I/O."""

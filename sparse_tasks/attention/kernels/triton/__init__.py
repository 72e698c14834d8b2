"""The kernels in Triton; imported only to run them."""

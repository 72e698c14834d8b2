"""The kernels in Triton; imported only when they are to run."""

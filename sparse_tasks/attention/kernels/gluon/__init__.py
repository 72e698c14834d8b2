"""The kernels in Gluon, Triton's lower-level dialect, for Hopper; imported only to run them."""

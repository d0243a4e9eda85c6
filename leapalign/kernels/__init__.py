"""Fused operations, one a file: its Triton kernels, forward and backward, beside its reference.

Each public function takes the kernels where `leapalign.kernels.dispatch.fused` says so, and its
PyTorch reference elsewhere; both have the same signature and meaning. `leapalign.kernels.fuse` fits
them into FLUX's and SD3's transformers.
"""

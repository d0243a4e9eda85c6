"""Every tolerance of the tests, named by the claim that it bounds."""

SWEEP_EQUALS_AUTOGRAD = 1e-10
"""Relative error of the backward sweep against autograd through the connectors, in float64."""

WEIGHTS_TELESCOPE = 1e-12
"""A leap's integration weights sum to σ[stop] - σ[start], in float64."""

LOG_PROB = 1e-6
"""Log-density of a stochastic step against torch.distributions, in float32."""

GOLDEN_STEP = 1e-12
"""A stochastic step's mean and deviation against values worked out by hand, in float64."""

RATIO_BEFORE_UPDATE = 1e-6
"""|ratio - 1| when a recorded step is replayed with unchanged weights."""

PIPELINE_IMAGE = 1e-5
"""Largest pixel difference between stock FluxPipeline and our rollout, images in [0, 1]."""

BATCH_SPLIT = 1e-5
"""Relative gradient difference between a batch and its accumulated micro-batches, float32."""

"""Every tolerance of the tests, named by the claim that it bounds."""

SWEEP_EQUALS_AUTOGRAD = 1e-10
"""Relative error of the backward sweep against autograd through the connectors, in float64."""

SWEEP_NORM = 1e-5
"""Relative difference of the two gradients' norms at a pocket model's weights, in float32."""

WEIGHTS_TELESCOPE = 1e-12
"""A leap's integration weights sum to σ[stop] - σ[start], in float64."""

LOG_PROB = 1e-6
"""Log-density of a stochastic step against torch.distributions, in float32."""

GOLDEN_STEP = 1e-12
"""A stochastic step's mean and deviation against values worked out by hand, in float64."""

DPM_SOLVER = 1e-5
"""A path by DPM-Solver++ against diffusers' scheduler, which computes in float32."""

RATIO_BEFORE_UPDATE = 1e-6
"""|ratio - 1| when a recorded step is replayed with unchanged weights."""

PIPELINE_IMAGE = 1e-5
"""Largest pixel difference between stock FluxPipeline and our rollout, images in [0, 1]."""

PIPELINE_LATENTS = 1e-5
"""Largest difference of the final latents between a stock pipeline's own loop and our rollout."""

BATCH_SPLIT = 1e-5
"""Relative gradient difference between a batch and its accumulated micro-batches, float32."""

BATCH_SPLIT_EXACT = 1e-12
"""The same in float64, for methods whose arithmetic is float64 throughout."""

ADVANTAGE = 1e-7
"""Group advantages against values worked out by hand, in float64; the 1e-8 in their denominator."""

UNIFORM_P_VALUE = 1e-3
"""Smallest p-value of a chi-square test at a fixed seed that a uniform draw may have."""

BOOTSTRAP_ENDPOINT = 0.03
"""An interval's end point against another Monte Carlo bootstrap's, as a share of its width."""

BOOTSTRAP_WIDTH = 0.08
"""An interval's width against the normal limit's, relative; the sample has few seeds."""

COVERAGE = (0.89, 0.99)
"""How often 200 intervals of 95% cover the truth: their binomial 3 sigma range."""

PIXEL_LEVEL = 1
"""Levels of 255 by which an image may differ between batch splits, from rounding in float32."""

PUBLISHED_ROUNDING = 6e-5
"""A published mean of scores that are themselves rounded to 4 digits."""

KNOWN_MEAN = 1e-12
"""A mean or difference that a test's own ledger makes exact, in float64."""

OFFICIAL_SCORE = {"hpsv2": 1e-6, "pickscore": 1e-4, "hpsv3": 1e-5, "imagereward": 1e-5}
"""Largest difference of a score from the official code's on the same tiny checkpoint, float32."""

PATH_GAP = {"hpsv2": 0.0, "pickscore": 0.1, "hpsv3": 2e-3, "imagereward": 5e-3}
"""Largest |score - score_pil| of an 8-bit image, on the same tiny checkpoints."""

DETECTOR_LOGITS = 1e-5
"""Class and mask logits of Mask2Former against mmdet's, in float64 but for its embeddings."""

DETECTOR_SCORE = 1e-6
"""A detection's score against mmdet's, in float64 but for its embeddings."""

COLOR_LOGITS = 1e-4
"""100 times an object's cosine with a colour, against the official classifier's, in float32."""

KERNEL_FLOAT32 = 1e-5
"""A kernel's outputs and gradients against float64, over the largest value, float32 inputs."""

KERNEL_BFLOAT16 = 1e-2
"""The same for bfloat16 inputs, outputs and gradients."""

KERNELS_IN_BLOCKS = 1e-5
"""Outputs and gradients of a tiny float32 FLUX or SD3 with and without the kernels, as above."""

RESAMPLING = 1e-12
"""The resampling matrix against torch's antialiased bicubic interpolation, in float64."""

FALSE_POSITIVES = (0.02, 0.10)
"""How often a test at 5% with three seeds rejects a true zero, of 300: Satterthwaite's
approximation is somewhat liberal, and the binomial 3 sigma range is 0.038."""

HALF_OF_TRIALS = (0.35, 0.65)
"""A share of 200 trials that is one half: the binomial 3 sigma range, and the test's own error."""

NORMAL_P_VALUE = 0.05
"""A p-value of a large sample against the normal limit's, relative."""

READ_OFF = 2e-4
"""A value read off a drawn curve at a pixel, where a training reward spans some hundredths."""

COLOURFULNESS = 1e-5
"""The example's reward against its formula by hand; a small constant keeps its roots smooth."""

LAYOUT = 1e-12
"""The distance of two plain images' layouts against its formula, in float64."""

SAVED = 0.01
"""What autograd saves for one more step of a trajectory against the step before, relative."""

DEVICES = 1e-6
"""Relative difference of an update's gradient, and the difference of a weight after it, for any
number of processes and any micro-batch, in float64 but for images and ratios."""

COMPILED = 1e-5
"""Relative gradient difference between compiled and eager blocks of a tiny FLUX, float32."""

FORECAST = 0.05
"""The memory that a training is expected to take against what it takes, relative."""

BFLOAT16_SPLIT = 1e-6
"""Relative difference of a gradient of bfloat16 passes, summed in one process or in two."""

BFLOAT16_GRADIENT = 0.3
"""The same of bfloat16 passes from float32 ones: the rollout's states differ already."""

HPSV3_SLOPE = 1e-2
"""Length of HPSv3's gradient against a central difference along it; the head rounds to float32."""

HPSV3_BFLOAT16_SCORE = 0.05
"""HPSv3 with a bfloat16 model against float32, in its unit, of which good images differ by 1."""

HPSV3_BFLOAT16_COSINE = 1e-3
"""1 - cosine of the two models' gradients in the pixels."""

BFLOAT16_PIXELS = 0.05
"""Mean difference of a bfloat16 transformer's pixels from a float32 one's, over their spread."""

BFLOAT16_LATENTS = 0.1
"""Largest difference of final latents of a bfloat16 pipeline, whose states are bfloat16 too, from a
rollout's, whose states are float32; they are normal at the start."""

"""LeapAlign (CVPR 2026, arXiv 2604.15311) and the core that every compared method shares."""

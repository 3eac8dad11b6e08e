"""Reproduces the tables and figures of the AdvFace paper (Wang et al., CVPR 2023) with the data that is available."""

"""The AdvFace paper's tables and figures (Wang et al., CVPR 2023), each by one command, from whatever data there is."""

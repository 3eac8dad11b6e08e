"""Every metric: heading, decimals, direction, tolerance."""

from __future__ import annotations

PSNR_CAP_DB = 100.0  #: what identical images get

"""The benchmark's metrics, each with its variant stated; they use established libraries where possible."""

"""The field's metrics, each with its variant stated, from libraries where there are good ones."""

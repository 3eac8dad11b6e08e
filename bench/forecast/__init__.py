"""Forecasts the duration and size of a run from measured costs and simulated schedules."""

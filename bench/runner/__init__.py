"""Carries out a plan: defends, attacks and judges."""

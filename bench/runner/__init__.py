"""Carries a plan out: defending, attacking, judging."""

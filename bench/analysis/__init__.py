"""Computes what results say: leaderboard, flags, comparison. Without torch and without drawing."""

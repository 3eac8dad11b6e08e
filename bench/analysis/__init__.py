"""What results say: leaderboard, flags, comparison. No torch, no drawing."""

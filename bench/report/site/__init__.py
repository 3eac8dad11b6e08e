"""The public leaderboard: a folder of static pages made from the archives of finished runs."""

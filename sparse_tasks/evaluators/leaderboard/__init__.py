"""From scored runs to a leaderboard: what is handed in, how it is checked, and the board."""

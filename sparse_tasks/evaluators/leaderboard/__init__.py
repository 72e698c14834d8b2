"""From scored runs to a leaderboard: submissions, how they are checked, and the board."""

"""What to prune, how much and when: schedules, criteria, patterns, allocations, masks."""

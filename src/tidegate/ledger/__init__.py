"""What each exchange cost: one entry each."""

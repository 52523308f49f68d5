"""What a user reads: check, variance, cost tree, tables, the first number that is not finite."""

"""Reports for users: check, audit, variance, cost tree, tables, first_nonfinite."""

"""Steps 4 and 5: the value of every equation, and the surrogate of the cost."""

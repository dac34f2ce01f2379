"""Training: what a stage reads and in which order, the Lightning module, and a loop that survives being killed."""

"""The processes: worker, ingress, and `dev`, which is both and their broker."""

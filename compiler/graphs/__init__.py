"""The graphs: one file per part of the model, `entry_points` for the whole."""

"""The networks that `convert_model` builds, one file for each family of checkpoints."""

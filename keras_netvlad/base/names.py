"""Names that several packages share: inputs and outputs of models, artifacts and records, and files."""

NUM_FRAMES = "num_frames"
SCORES = "scores"
DESCRIPTOR = "descriptor"
# The settings of `extract_features`, in the directory of its records.
EXTRACTION_FILE = "extraction.json"

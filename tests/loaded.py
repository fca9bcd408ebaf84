"""The pipeline of $EFFACE_TEST_MODEL: for processes that are forked once it is there."""

import os

from efface.backbones.pipeline import load_pipeline

PIPE = load_pipeline(os.environ["EFFACE_TEST_MODEL"])

"""Pictures to verdicts; each detector owns its threshold and its class list."""

REGISTRY = {
    "emoji-tuning": "efface.detectors.judge:tuning",
    "emoji-reporting": "efface.detectors.judge:reporting",
}
"""Preset -> module:function that gives the judge."""

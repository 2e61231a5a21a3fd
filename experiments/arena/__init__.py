"""The one way to compare: entries x settings x seeds, one play, one frame, estimators, tables and figures."""

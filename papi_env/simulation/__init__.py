"""The batch engine: state as arrays, one compiled advance, metrics. It knows neither gymnasium nor torch."""

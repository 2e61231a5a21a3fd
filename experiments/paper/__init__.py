"""PAPI's published rows: readings, constants, rows simulated, figures."""

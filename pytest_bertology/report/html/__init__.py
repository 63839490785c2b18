"""The report as one HTML file: no network, readable without scripts, on a phone and by a screen reader."""
